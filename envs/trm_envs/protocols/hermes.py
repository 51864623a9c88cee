r"""Hermes tool calls, as many as the model likes in one turn, and boxed answers.

    <tool_call>
    {"name": "calculator", "arguments": {"expression": "3+4"}}
    </tool_call>

The JSON is read from the opening tag on, so that tags inside its strings are text. The answer is the last `\boxed{...}`
of a turn without tool calls.
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from trm_envs.protocols.reading import TemplateProtocol
from trm_envs.protocols.strict_json import MAX_SHOWN_CHARS, read_json, skip_space, write_json
from trm_envs.thoughts import Decoder
from trm_envs.tools import Tool
from trm_envs.turn import MalformedCall, ToolCall

CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"


class Hermes(TemplateProtocol):
    """The protocol of most open models' chat templates."""

    name: ClassVar[str] = "hermes"
    opening: ClassVar[str] = f"{CALL_OPEN}|{CALL_CLOSE}"

    def decoder(self, tools: Sequence[Tool]) -> Decoder[ToolCall]:
        """Return the function that reads a call from its opening."""
        return _decode

    def write(self, name: str, arguments: dict[str, Any]) -> str:
        """Return the text of a call."""
        return f"{CALL_OPEN}\n{write_json({'name': name, 'arguments': arguments})}\n{CALL_CLOSE}"


def start_of_call(text: str, mark: re.Match[str]) -> int:
    """Return the place where the inside of a call begins, after spaces.

    Raises:
        MalformedCall: if the mark is a closing tag, or another call opens at once.
    """
    if mark[0] == CALL_CLOSE:
        raise MalformedCall(f"{CALL_CLOSE} without {CALL_OPEN}")
    start = skip_space(text, mark.end())
    if text.startswith(CALL_OPEN, start):
        raise MalformedCall(f"{CALL_OPEN} inside {CALL_OPEN}: close the first call with {CALL_CLOSE}")
    return start


def _decode(text: str, mark: re.Match[str]) -> tuple[ToolCall, int]:
    start = start_of_call(text, mark)
    try:
        value, end = read_json(text, start)
    except MalformedCall as error:
        unclosed = "" if CALL_CLOSE in text[start:] else f"{CALL_OPEN} without {CALL_CLOSE}; "
        raise MalformedCall(f"{unclosed}the tool call is {error}") from error
    close = skip_space(text, end)
    if not text.startswith(CALL_CLOSE, close):
        rest = text[close : close + MAX_SHOWN_CHARS]
        what = f"; after the JSON object comes {rest!r}" if rest else ""
        raise MalformedCall(f"{CALL_OPEN} without {CALL_CLOSE}{what}")
    return _call(value), close + len(CALL_CLOSE)


def _call(value: Any) -> ToolCall:
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
        field = unknown[0][:MAX_SHOWN_CHARS]
        raise MalformedCall(f'the tool call has an unknown field "{field}"; use "name" and "arguments"')
    return ToolCall(name, arguments)
