"""Requests of one assistant turn."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ToolCall:
    """A request of the model to run a tool."""

    name: str
    """The tool's name."""
    arguments: dict[str, Any]
    """Argument name to JSON value."""


@dataclass(frozen=True)
class ParsedTurn:
    """The requests of one assistant turn."""

    calls: tuple[ToolCall, ...] = ()
    """The tool calls in order; empty if any of them is malformed."""
    malformed: str | None = None
    """Reason why the tool calls cannot be read, for the model's eyes; None if they can."""
    answer: str | None = None
    """The final answer; None if the turn calls a tool or holds no complete answer."""


class MalformedCall(ValueError):
    """Text in the place of a tool call cannot be read as one; the message gives the model the reason."""
