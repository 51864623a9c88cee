r"""Hermes tool calls, as many as the model likes in one turn, and boxed answers.

    <tool_call>
    {"name": "calculator", "arguments": {"expression": "3+4"}}
    </tool_call>

The answer is the last `\boxed{...}` of a turn without tool calls.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

from trm_envs.scoring.extract import after_thoughts, last_boxed
from trm_envs.tools import Tool
from trm_envs.turn import MalformedCall, ParsedTurn, ToolCall

CALL_OPEN = "<tool_call>"
CALL_CLOSE = "</tool_call>"
_CALL_TAG = re.compile(f"({CALL_OPEN}|{CALL_CLOSE})")


class Hermes:
    """The protocol that chat templates of most open models know."""

    name: ClassVar[str] = "hermes"
    template_shows_tools: ClassVar[bool] = True

    def check_tools(self, tools: Sequence[Tool]) -> None:
        """Any tool can be called."""

    def instructions(self, tools: Sequence[Tool]) -> str:
        """Return nothing: the chat template describes the tools, the environment how to answer."""
        return ""

    def parse(self, text: str, tools: Sequence[Tool]) -> ParsedTurn:
        """Read one assistant turn; see `TurnProtocol.parse`."""
        visible = after_thoughts(text)
        try:
            calls = tuple(_parse_call(body) for body in _call_bodies(visible))
        except MalformedCall as error:
            return ParsedTurn(malformed=str(error))
        return ParsedTurn(calls=calls) if calls else ParsedTurn(answer=last_boxed(visible) or None)

    def format_call(self, name: str, arguments: dict[str, Any], tools: Sequence[Tool] = ()) -> str:
        """Return the text of one tool call.

        Raises:
            TypeError: if an argument is not JSON.
        """
        body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
        return f"{CALL_OPEN}\n{body}\n{CALL_CLOSE}"

    def format_answer(self, answer: str) -> str:
        """Return the answer in a box."""
        return f"\\boxed{{{answer}}}"


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
    value = parse_json(body)
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


def parse_json(text: str) -> Any:
    """Return the JSON value of a call's text.

    Raises:
        MalformedCall: if it is not JSON; NaN and infinity are none.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise MalformedCall(f"the tool call is not JSON ({reason})") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
