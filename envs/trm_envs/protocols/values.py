"""Arguments as text between tags: strings as they are, anything else as JSON, told apart by the tool's schema."""

import re
from collections.abc import Sequence
from typing import Any

from trm_envs.protocols.strict_json import read_json, skip_space, write_json
from trm_envs.tools import Tool
from trm_envs.turn import MalformedCall

# Templates that write `value | string` show a model Python's words.
_PYTHON_WORDS = {"True": True, "False": False, "None": None}
_NULLS = ("null", "None")


def write_value(value: Any) -> str:
    """Return the text of an argument.

    Raises:
        ValueError: if it is no JSON value.
    """
    return value if isinstance(value, str) else write_json(value)


def read_value(
    text: str, start: int, closing: re.Pattern[str], schema: dict[str, Any] | None
) -> tuple[Any, int] | None:
    """Return the argument that begins at `start`, and where its closing tag ends; None if that is missing.

    Where the schema wants no string, JSON is read first, so that tags inside its strings are text. What is no JSON is
    the text itself: whoever checks the argument then says so.

    Args:
        closing: matches the closing tag.
        schema: of the parameter; None if there is no such parameter.
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
    """Return the schemas of a tool's parameters; none if there is no such tool."""
    return next((tool.parameters["properties"] for tool in tools if tool.name == name), {})
