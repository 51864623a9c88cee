"""Tools and text for the tests of the protocols."""

from collections.abc import Callable
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trm_envs import PROTOCOLS, Tool, ToolCall
from trm_envs.turn import ParsedTurn


def python(code: str) -> str:
    """Run code."""
    return code


def look_up(key: str, limit: int = 3, exact: bool = False, note: str | None = None) -> str:
    """Look something up."""
    return f"{key} {limit} {exact} {note}"


def plot(points: list[float], style: Literal["line", "dots"] = "line", options: dict | None = None) -> str:  # type: ignore[type-arg]
    """Draw points."""
    return f"{points} {style} {options}"


def now() -> str:
    """Return the time."""
    return "noon"


TOOLS = (Tool(python), Tool(look_up), Tool(plot), Tool(now))
PYTHON, LOOK_UP, PLOT, NOW = TOOLS
EXAMPLES = [20, pytest.param(80, marks=pytest.mark.slow)]
# How each protocol writes one and the same call.
SPOKEN = {
    "hermes": '<tool_call>\n{"name": "python", "arguments": {"code": "print(1)"}}\n</tool_call>',
    "fenced": "```python\nprint(1)\n```",
    "tags": "<python>print(1)</python>",
    "function_tags": (
        "<tool_call>\n<function=python>\n<parameter=code>\nprint(1)\n</parameter>\n</function>\n</tool_call>"
    ),
    "arg_tags": "<tool_call>python\n<arg_key>code</arg_key>\n<arg_value>print(1)</arg_value>\n</tool_call>",
}
PIECES = (
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_call>\n<function=python>\n", "<parameter=code>\n",
    "\n</parameter>", "\n</parameter>\n</function>\n</tool_call>", "</function>", "<arg_key>", "</arg_key>",
    "<arg_value>", "</arg_value>", "</arg_value>\n</tool_call>", "</arg_value><arg_key>", "<python>", "</python>",
    "</look_up>", "```", "```python", "\n```\n", "\n````\n", "~~~", "\n  ```  \n", "\\boxed{1}", "<answer>1</answer>",
    "\n", "\r\n", " ", "\t", "\x00", "\x85", "\u2028", "\ufeff", "\ud800", "\udfff", "\ud83d\ude00", "😀", "null",
    "None", "True", "1", '"', "\\", "{}", "[", "}", "x = 1", "    return 2", "<|im_end|>", "NaN", "-0.0", "1e5",
)  # fmt: skip
ANY_CHARACTERS = st.text(st.characters(codec=None, exclude_categories=()), max_size=12)
NASTY_TEXT = st.lists(st.one_of(st.sampled_from(PIECES), ANY_CHARACTERS), max_size=8).map("".join)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | NASTY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NASTY_TEXT, inner, max_size=3),
    max_leaves=8,
)


def holds(examples: int, check: Callable[..., None], *drawn: st.SearchStrategy[Any]) -> None:
    """Check so many draws."""
    settings(max_examples=examples, deadline=None, database=None)(given(*drawn)(check))()


def parse(name: str, text: str) -> ParsedTurn:
    return PROTOCOLS[name].parse(text, TOOLS)


def write(name: str, tool: str, **arguments: Any) -> str:
    return PROTOCOLS[name].format_call(tool, arguments, TOOLS)


def code_call(code: str) -> ToolCall:
    return ToolCall("python", {"code": code})
