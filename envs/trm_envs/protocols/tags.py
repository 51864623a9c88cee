"""Plain tags: `<answer>...</answer>`, and a tag for each tool.

    <calculator>3+4</calculator>

A tool that needs one string takes the text between its tags as it is; any other takes a JSON object of arguments.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, ClassVar

from trm_envs.protocols.hermes import parse_json
from trm_envs.scoring.extract import after_thoughts, last_tagged
from trm_envs.tools import Tool
from trm_envs.turn import MalformedCall, ParsedTurn, ToolCall

ANSWER = "answer"


class Tags:
    """A tag for each tool and one for the answer."""

    name: ClassVar[str] = "tags"
    template_shows_tools: ClassVar[bool] = False

    def check_tools(self, tools: Sequence[Tool]) -> None:
        """Raise a ValueError if a tool has the name of the answer's tag."""
        if any(tool.name == ANSWER for tool in tools):
            raise ValueError(f'protocol = "tags": a tool is called {ANSWER}, as the answer\'s tag is; rename the tool')

    def instructions(self, tools: Sequence[Tool]) -> str:
        """Describe the tools and how to answer."""
        lines = [f"{_example(tool)}: {tool.description}" for tool in tools]
        lines.append(f"Give the final answer as <{ANSWER}>...</{ANSWER}> in a turn without a call.")
        return "\n".join(["Call a tool by its tag:", *lines] if tools else lines)

    def parse(self, text: str, tools: Sequence[Tool]) -> ParsedTurn:
        """Read one assistant turn; see `TurnProtocol.parse`. Inside a call other tags are text."""
        visible = after_thoughts(text)
        by_name = {tool.name: tool for tool in tools}
        calls: list[ToolCall] = []
        opening = re.compile("<(" + "|".join(map(re.escape, by_name)) + ")>") if by_name else None
        position = 0
        while opening is not None and (match := opening.search(visible, position)):
            close = f"</{match[1]}>"
            end = visible.find(close, match.end())
            if end < 0:
                return ParsedTurn(malformed=f"<{match[1]}> without {close}")
            try:
                calls.append(_parse_call(by_name[match[1]], visible[match.end() : end]))
            except MalformedCall as error:
                return ParsedTurn(malformed=str(error))
            position = end + len(close)
        return ParsedTurn(calls=tuple(calls)) if calls else ParsedTurn(answer=last_tagged(visible))

    def format_call(self, name: str, arguments: dict[str, Any], tools: Sequence[Tool]) -> str:
        """Return the call in its tag.

        Raises:
            ValueError: if there is no such tool, or the text would close its own tag.
        """
        tool = next((tool for tool in tools if tool.name == name), None)
        if tool is None:
            raise ValueError(f"{name}: no such tool; the tools are: {', '.join(tool.name for tool in tools) or 'none'}")
        plain = _plain_argument(tool)
        is_plain = plain is not None and list(arguments) == [plain]
        body = arguments[plain] if is_plain else json.dumps(arguments, ensure_ascii=False)  # type: ignore[index]
        if f"</{name}>" in body:
            raise ValueError(f"the arguments hold </{name}>, which would end the call")
        return f"<{name}>{body}</{name}>"

    def format_answer(self, answer: str) -> str:
        """Return the answer in its tag."""
        return f"<{ANSWER}>{answer}</{ANSWER}>"


def _plain_argument(tool: Tool) -> str | None:
    """The name of the only argument, if it is a string."""
    properties = tool.parameters["properties"]
    if len(properties) != 1:
        return None
    name, schema = next(iter(properties.items()))
    return name if schema.get("type") == "string" else None


def _example(tool: Tool) -> str:
    plain = _plain_argument(tool)
    if plain is not None:
        return f"<{tool.name}>{plain}</{tool.name}>"
    named = ", ".join(f'"{name}": ...' for name in tool.parameters["properties"])
    return f"<{tool.name}>{{{named}}}</{tool.name}>"


def _parse_call(tool: Tool, body: str) -> ToolCall:
    plain = _plain_argument(tool)
    if plain is not None:
        return ToolCall(tool.name, {plain: body})
    arguments = parse_json(body) if body.strip() else {}
    if not isinstance(arguments, dict):
        raise MalformedCall(f"<{tool.name}> holds no JSON object of arguments")
    return ToolCall(tool.name, arguments)
