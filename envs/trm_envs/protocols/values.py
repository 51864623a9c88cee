"""Arguments as text between tags: strings as they are, anything else as JSON, told apart by the tool's schema."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from trm_envs.protocols.strict_json import MAX_SHOWN_CHARS, read_json, skip_space, write_json
from trm_envs.tools import Tool
from trm_envs.turn import MalformedCall, ToolCall

# Templates that write `value | string` show a model Python's words.
_PYTHON_WORDS = {"True": True, "False": False, "None": None}
_NULLS = ("null", "None")


def write_value(value: Any) -> str:
    """Return the text of an argument.

    Raises:
        ValueError: if it is not a JSON value.
    """
    return value if isinstance(value, str) else write_json(value)


def read_value(
    text: str, start: int, closing: re.Pattern[str], schema: dict[str, Any] | None
) -> tuple[Any, int] | None:
    """Return the argument that begins at `start`, and the end of its closing tag; None if the tag is missing.

    If the schema does not want a string, JSON is read first, so that tags inside its strings are text. Anything but
    JSON is returned as text, and the check of the argument reports it.

    Args:
        closing: matches the closing tag.
        schema: schema of the parameter; None if there is no such parameter.
    """
    kinds = [choice.get("type") for choice in (schema or {}).get("anyOf", [schema or {"type": "string"}])]
    if "string" not in kinds:
        try:
            value, end = read_json(text, start)
        except MalformedCall:
            pass
        else:
            if close := closing.match(text, skip_space(text, end)):
                return value, close.end()
    close = closing.search(text, start)
    if close is None:
        return None
    value = text[start : close.start()]
    if "string" not in kinds:
        return _PYTHON_WORDS.get(value.strip(), value), close.end()
    return None if "null" in kinds and value in _NULLS else value, close.end()


def schemas_of(name: str, tools: Sequence[Tool]) -> dict[str, dict[str, Any]]:
    """Return the schemas of a tool's parameters; empty for an unknown tool."""
    return next((tool.parameters["properties"] for tool in tools if tool.name == name), {})


@dataclasses.dataclass(frozen=True)
class ArgumentTags:
    """The tags of a protocol's arguments, and its messages for malformed ones; `{}` stands for a name."""

    opening: re.Pattern[str]
    """A pattern that matches up to an argument's value; its group is the argument's name."""
    closing: re.Pattern[str]
    """A pattern that matches the end of a value."""
    end: str
    """The text after the last argument."""
    expected: str
    """Start of the message if neither an argument nor the end follows, up to the text that does; `{}` is the tool."""
    shown: str
    """Form of an argument in a message."""
    unclosed: str
    """Message for a value without an end."""
    strips_names: bool = False
    """True if spaces around an argument's name are not part of it."""


def read_arguments(text: str, start: int, name: str, tools: Sequence[Tool], tags: ArgumentTags) -> tuple[ToolCall, int]:
    """Return the call whose arguments begin at `start`, and the end of the text after the last one.

    Args:
        name: name of the tool.

    Raises:
        MalformedCall: if something else stands there, a name stands twice, or a value has no end.
    """
    schemas = schemas_of(name, tools)
    arguments: dict[str, Any] = {}
    position = skip_space(text, start)
    while not text.startswith(tags.end, position):
        opening = tags.opening.match(text, position)
        if opening is None:
            rest = text[position : position + MAX_SHOWN_CHARS]
            raise MalformedCall(f"{tags.expected.format(name[:MAX_SHOWN_CHARS])}, found {rest!r}")
        argument = opening[1].strip() if tags.strips_names else opening[1]
        if argument in arguments:
            raise MalformedCall(f"{tags.shown.format(argument[:MAX_SHOWN_CHARS])} stands twice in one call")
        found = read_value(text, opening.end(), tags.closing, schemas.get(argument))
        if found is None:
            raise MalformedCall(tags.unclosed.format(argument[:MAX_SHOWN_CHARS]))
        arguments[argument], end = found
        position = skip_space(text, end)
    return ToolCall(name, arguments), position + len(tags.end)
