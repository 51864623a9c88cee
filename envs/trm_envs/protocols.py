r"""Model text <-> tool calls and answers.

A tool call is Hermes style, as many as the model likes in one turn::

    <tool_call>
    {"name": "calculator", "arguments": {"expression": "3+4"}}
    </tool_call>

The final answer is the last `\boxed{...}` of a turn without tool calls. Text up to the last `</think>` is thought:
neither calls nor answers are read from it.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

CALL_OPEN = "<tool_call>"
CALL_CLOSE = "</tool_call>"
THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
BOX_OPEN = "\\boxed{"
_CALL_TAG = re.compile(f"({CALL_OPEN}|{CALL_CLOSE})")


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
    """The final answer; None if the turn calls a tool or holds no complete box."""


class MalformedCall(ValueError):
    """The text between the call tags is not a tool call; the message tells the model why."""


def format_tool_call(name: str, arguments: dict[str, Any]) -> str:
    """Return the text of one tool call, as `parse_turn` reads it.

    Raises:
        TypeError: if an argument is not JSON.
    """
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"{CALL_OPEN}\n{body}\n{CALL_CLOSE}"


def parse_turn(text: str) -> ParsedTurn:
    """Read one assistant turn. Never raises: whatever is wrong with a call stands in `malformed`."""
    visible = _after_thoughts(text)
    try:
        calls = tuple(_parse_call(body) for body in _call_bodies(visible))
    except MalformedCall as error:
        return ParsedTurn(malformed=str(error))
    if calls:
        return ParsedTurn(calls=calls)
    return ParsedTurn(answer=last_boxed(visible))


def last_boxed(text: str) -> str | None:
    r"""Return the inside of the last `\boxed{...}`, braces balanced and spaces stripped; None if there is none."""
    start = text.rfind(BOX_OPEN)
    if start < 0:
        return None
    depth = 1
    inside = start + len(BOX_OPEN)
    for position in range(inside, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[inside:position].strip()
    return None


def _after_thoughts(text: str) -> str:
    visible = text.rpartition(THINK_CLOSE)[2]
    return visible.partition(THINK_OPEN)[0]


def _call_bodies(text: str) -> list[str]:
    """Return what stands between each pair of call tags."""
    bodies: list[str] = []
    inside = False
    for part in _CALL_TAG.split(text):
        if part == CALL_OPEN:
            if inside:
                raise MalformedCall(f"{CALL_OPEN} inside {CALL_OPEN}: close the first call with {CALL_CLOSE}")
            inside = True
        elif part == CALL_CLOSE:
            if not inside:
                raise MalformedCall(f"{CALL_CLOSE} without {CALL_OPEN}")
            inside = False
        elif inside:
            bodies.append(part)
    if inside:
        raise MalformedCall(f"{CALL_OPEN} without {CALL_CLOSE}")
    return bodies


def _parse_call(body: str) -> ToolCall:
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise MalformedCall(f"the tool call is not JSON ({reason})") from error
    if not isinstance(value, dict):
        raise MalformedCall('the tool call is not a JSON object with "name" and "arguments"')
    name = value.get("name")
    if not isinstance(name, str) or not name:
        raise MalformedCall('the tool call has no "name" (a string)')
    arguments = value.get("arguments", {})
    if not isinstance(arguments, dict):
        raise MalformedCall('"arguments" is not a JSON object')
    unknown = sorted(set(value) - {"name", "arguments"})
    if unknown:
        raise MalformedCall(f'the tool call has an unknown field "{unknown[0]}"; use "name" and "arguments"')
    return ToolCall(name, arguments)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
