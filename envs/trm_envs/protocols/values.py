"""Arguments as text between tags: strings as they are, anything else as JSON, told apart by the tool's schema."""

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


def read_value(text: str, schema: dict[str, Any] | None) -> Any:
    """Return the argument that a text stands for.

    Args:
        schema: of the parameter; None if there is no such parameter.

    Returns:
        The text itself if a string is wanted, or if it is no JSON: whoever checks the argument then says so.
    """
    if schema is None:
        return text
    kinds = [choice.get("type") for choice in schema.get("anyOf", [schema])]
    if "string" in kinds:
        return None if "null" in kinds and text in _NULLS else text
    word = text.strip()
    if word in _PYTHON_WORDS:
        return _PYTHON_WORDS[word]
    try:
        value, end = read_json(text)
    except MalformedCall:
        return text
    return value if skip_space(text, end) == len(text) else text


def schemas_of(name: str, tools: Sequence[Tool]) -> dict[str, dict[str, Any]]:
    """Return the schemas of a tool's parameters; none if there is no such tool."""
    return next((tool.parameters["properties"] for tool in tools if tool.name == name), {})
