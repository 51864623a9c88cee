"""The interface of every protocol."""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from trm_envs.tools import Tool
from trm_envs.turn import ParsedTurn


class TurnProtocol(Protocol):
    """A syntax of tool calls and answers. Thoughts are never read; see `trm_envs.thoughts`."""

    name: ClassVar[str]
    template_shows_tools: ClassVar[bool]
    """True if a chat template describes the tools; else `instructions` do."""

    def check_tools(self, tools: Sequence[Tool]) -> None:
        """Raise a ValueError if one of the tools cannot be called in this protocol."""

    def instructions(self, tools: Sequence[Tool]) -> str:
        """Return the system prompt's words on calls and answers."""

    def parse(self, text: str, tools: Sequence[Tool]) -> ParsedTurn:
        """Read one assistant turn. Never raises: the fault of a call stands in `malformed`."""

    def format_call(self, name: str, arguments: dict[str, Any], tools: Sequence[Tool]) -> str:
        """Return the text of one tool call, as `parse` reads it.

        Raises:
            ValueError: if `parse` would read any such text as something else.
        """

    def format_answer(self, answer: str) -> str:
        """Return the text of an answer, as `parse` reads it."""
