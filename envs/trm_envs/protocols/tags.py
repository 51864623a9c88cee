"""Plain tags: `<answer>...</answer>`, and a tag for each tool.

    <calculator>3+4</calculator>

A tool whose only argument is a string takes the text up to its first closing tag as it is; any other takes a JSON
object of arguments, in whose strings tags are text.
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from trm_envs.protocols.reading import check_reads_back, read_turn
from trm_envs.protocols.strict_json import MAX_SHOWN_CHARS, read_json, skip_space, write_json
from trm_envs.scoring.extract import last_tagged
from trm_envs.thoughts import Decoder
from trm_envs.tools import Tool
from trm_envs.turn import MalformedCall, ParsedTurn, ToolCall

ANSWER = "answer"
TAKEN = {ANSWER: "the answer's tag", "think": "the tag of thoughts"}


class Tags:
    """A protocol with a tag for each tool and one for the answer."""

    name: ClassVar[str] = "tags"
    template_shows_tools: ClassVar[bool] = False

    def check_tools(self, tools: Sequence[Tool]) -> None:
        """Raise a ValueError if a tool has the name of a tag with another meaning."""
        for tool in tools:
            if tool.name in TAKEN:
                raise ValueError(
                    f'protocol = "tags": a tool is called {tool.name}, as {TAKEN[tool.name]} is; rename the tool'
                )

    def instructions(self, tools: Sequence[Tool]) -> str:
        """Describe the tools and how to answer."""
        lines = [f"{_example(tool)}: {tool.description}" for tool in tools]
        lines.append(f"Give the final answer as <{ANSWER}>...</{ANSWER}> in a turn without a call.")
        return "\n".join(["Call a tool by its tag:", *lines] if tools else lines)

    def parse(self, text: str, tools: Sequence[Tool]) -> ParsedTurn:
        """Read one assistant turn; see `TurnProtocol.parse`. Inside a call other tags are text."""
        names = "|".join(re.escape(tool.name) for tool in tools)
        return read_turn(text, f"<(?:{names})>" if names else "(?!)", lambda: _decoder(tools), last_tagged)

    def format_call(self, name: str, arguments: dict[str, Any], tools: Sequence[Tool]) -> str:
        """Return the call in its tag.

        Raises:
            ValueError: if there is no such tool, the text would close its own tag, or there are other arguments than
            the
                one that the tool takes as text.
        """
        tool = next((tool for tool in tools if tool.name == name), None)
        if tool is None:
            raise ValueError(f"{name}: no such tool; the tools are: {', '.join(tool.name for tool in tools) or 'none'}")
        plain = _plain_argument(tool)
        value = arguments.get(plain) if plain is not None else None
        if isinstance(value, str) and f"</{name}>" in value:
            raise ValueError(f"the arguments hold </{name}>, which would end the call")
        text = value if isinstance(value, str) else write_json(arguments)
        return check_reads_back(self, f"<{name}>{text}</{name}>", name, arguments, tools)

    def format_answer(self, answer: str) -> str:
        """Return the answer in its tag."""
        return f"<{ANSWER}>{answer}</{ANSWER}>"


def _plain_argument(tool: Tool) -> str | None:
    """Return the name of the only argument, if it is a string and must be given."""
    properties = tool.parameters["properties"]
    if len(properties) != 1:
        return None
    name, schema = next(iter(properties.items()))
    return name if schema.get("type") == "string" and name in tool.parameters["required"] else None


def _example(tool: Tool) -> str:
    plain = _plain_argument(tool)
    if plain is not None:
        return f"<{tool.name}>{plain}</{tool.name}>"
    named = ", ".join(f'"{name}": ...' for name in tool.parameters["properties"])
    return f"<{tool.name}>{{{named}}}</{tool.name}>"


def _decoder(tools: Sequence[Tool]) -> Decoder[ToolCall]:
    by_tag = {f"<{tool.name}>": tool for tool in tools}

    def decode(text: str, mark: re.Match[str]) -> tuple[ToolCall, int]:
        tool = by_tag[mark[0]]
        close = f"</{tool.name}>"
        plain = _plain_argument(tool)
        if plain is None:
            arguments, end = _read_arguments(text, mark.end(), close)
        else:
            end = text.find(close, mark.end())
            arguments = {plain: text[mark.end() : end]}
        if end < 0:
            raise MalformedCall(f"{mark[0]} without {close}")
        return ToolCall(tool.name, arguments), end + len(close)

    return decode


def _read_arguments(text: str, start: int, close: str) -> tuple[dict[str, Any], int]:
    """Return the arguments and the place of the closing tag."""
    begin = skip_space(text, start)
    if text.startswith(close, begin):
        return {}, begin
    try:
        arguments, end = read_json(text, begin)
    except MalformedCall as error:
        raise MalformedCall(f"what stands before {close} is {error}") from error
    if not isinstance(arguments, dict):
        raise MalformedCall(f"before {close} there is no JSON object of arguments")
    end = skip_space(text, end)
    if not text.startswith(close, end):
        rest = text[end : end + MAX_SHOWN_CHARS]
        raise MalformedCall(f"{close} is missing" + (f"; after the JSON object comes {rest!r}" if rest else ""))
    return arguments, end
