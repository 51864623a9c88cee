"""What one assistant turn asks for."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ToolCall:
    """One request of the model to run a tool."""

    name: str
    """The tool's name."""
    arguments: dict[str, Any]
    """Argument name to JSON value."""


@dataclass(frozen=True)
class ParsedTurn:
    """What one assistant turn asks for."""

    calls: tuple[ToolCall, ...] = ()
    """The tool calls in order; empty if any of them is malformed."""
    malformed: str | None = None
    """Why the tool calls cannot be read, for the model's eyes; None if they can."""
    answer: str | None = None
    """The final answer; None if the turn calls a tool or holds no complete answer."""


class MalformedCall(ValueError):
    """What stands where a tool call is expected is none; the message tells the model why."""
