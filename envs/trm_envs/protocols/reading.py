"""Functions shared by the protocols: from a scan to a turn, and the check that a written call reads back."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from trm_envs.protocols.interface import TurnProtocol
from trm_envs.protocols.strict_json import MAX_SHOWN_CHARS, write_json
from trm_envs.scoring.extract import last_boxed
from trm_envs.thoughts import Decoder, scan
from trm_envs.tools import Tool
from trm_envs.turn import ParsedTurn, ToolCall


def boxed_answer(speech: str) -> str | None:
    """Return the answer of a turn that gives it in a box."""
    return last_boxed(speech) or None


def read_turn(
    text: str,
    opening: str,
    new_decoder: Callable[[], Decoder[ToolCall]],
    answer: Callable[[str], str | None] = boxed_answer,
) -> ParsedTurn:
    """Return the requests of a turn; see `trm_envs.thoughts.scan`.

    Args:
        answer: reads the answer from the words said aloud in a turn without a call.
    """
    found = scan(text, opening, new_decoder)
    if found.malformed is not None:
        return ParsedTurn(malformed=found.malformed)
    return ParsedTurn(calls=found.calls) if found.calls else ParsedTurn(answer=answer(found.speech))


def check_reads_back(
    protocol: TurnProtocol, text: str, name: str, arguments: dict[str, Any], tools: Sequence[Tool]
) -> str:
    """Return the text of a call.

    Raises:
        ValueError: if the protocol would read it as something else.
    """
    turn = protocol.parse(text, tools)
    if turn.calls == (ToolCall(name, arguments),):
        return text
    shown = f"{name}({write_json(arguments)})"
    shown = shown if len(shown) <= MAX_SHOWN_CHARS else shown[:MAX_SHOWN_CHARS] + "..."
    raise ValueError(
        f'{shown} cannot be written in the protocol "{protocol.name}": it would be read as something else '
        f'({turn.malformed or "other arguments"}); pass what the tool takes, or use protocol="hermes"'
    )


class TemplateProtocol(ABC):
    """A protocol of chat templates: the template shows the tools, any tool can be called, answers are boxed."""

    name: ClassVar[str]
    template_shows_tools: ClassVar[bool] = True
    opening: ClassVar[str]
    """A regular expression for the opening of a call."""

    def check_tools(self, tools: Sequence[Tool]) -> None:  # noqa: B027  (empty, not abstract: most need no more)
        """Accept any tool."""

    def instructions(self, tools: Sequence[Tool]) -> str:
        """Return nothing, since the chat template describes the tools, and the environment the form of an answer."""
        return ""

    def parse(self, text: str, tools: Sequence[Tool]) -> ParsedTurn:
        """Read one assistant turn; see `TurnProtocol.parse`."""
        return read_turn(text, self.opening, lambda: self.decoder(tools))

    def format_call(self, name: str, arguments: dict[str, Any], tools: Sequence[Tool] = ()) -> str:
        """Return the text of one tool call.

        Raises:
            ValueError: if there is no text that reads back as this call.
        """
        return check_reads_back(self, self.write(name, arguments), name, arguments, tools)

    def format_answer(self, answer: str) -> str:
        """Return the answer in a box."""
        return f"\\boxed{{{answer}}}"

    @abstractmethod
    def decoder(self, tools: Sequence[Tool]) -> Decoder[ToolCall]:
        """Return the function that reads a call from its opening."""

    @abstractmethod
    def write(self, name: str, arguments: dict[str, Any]) -> str:
        """Return the text of a call, whether or not it can be read back.

        Raises:
            ValueError: if an argument is not a JSON value.
        """
