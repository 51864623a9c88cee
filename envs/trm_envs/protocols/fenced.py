r"""Fenced Python code as the tool call, and boxed answers, as base models write them by themselves.

    ```python
    print(3 + 4)
    ```

Each block is a call of the environment's code tool, the first tool with an argument `code`. The answer is the last
`\boxed{...}` of a turn without a block. Fences are CommonMark's: three or more backticks or tildes, closed by at least
as many of the same; the language is the first word behind them; the indentation of the opening fence, in a list or not,
is not part of the code. A block in another language, or in none, is text, and so is a quoted one.
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from trm_envs.protocols.reading import check_reads_back, read_turn
from trm_envs.tools import Tool
from trm_envs.turn import MalformedCall, ParsedTurn, ToolCall

CODE_ARGUMENT = "code"
TAB_COLUMNS = 4
# A closing fence may stand this much further to the right than the opening one.
CLOSING_INDENT = 3
_OPENING = (
    r"(?:^|(?<=</think>))(?P<indent>[ \t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*)"
    r"(?P<fence>`{3,}(?=[^`\n]*$)|~{3,})(?P<info>[^\n]*)$"
)
_CLOSING = re.compile(r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t\r]*$", re.MULTILINE)
_LANGUAGE = re.compile(r"[ \t]*\{?[ .]*([\w+#.-]*)")
_PYTHON = re.compile(r"(?:python|py)[\d.]*", re.IGNORECASE)
_LINE_SPACE = re.compile(r"^[ \t]+", re.MULTILINE)


class Fenced:
    """A protocol of Python code in fences."""

    name: ClassVar[str] = "fenced"
    template_shows_tools: ClassVar[bool] = False

    def check_tools(self, tools: Sequence[Tool]) -> None:
        """Raise a ValueError if no tool takes code alone."""
        if _code_tool(tools) is None:
            names = ", ".join(tool.name for tool in tools) or "none"
            raise ValueError(
                f'protocol = "fenced": needs a tool whose only required argument is `{CODE_ARGUMENT}`, the tools are: '
                f'{names}; use protocol="hermes" or "tags"'
            )

    def instructions(self, tools: Sequence[Tool]) -> str:
        """Describe how to write code and answers."""
        tool = _code_tool(tools)
        assert tool is not None, "checked"
        return (
            f"To run code, write it in a block that begins with ```python and ends with ```: {tool.description} "
            "Give the final answer as \\boxed{...} in a turn without code."
        )

    def parse(self, text: str, tools: Sequence[Tool]) -> ParsedTurn:
        """Read one assistant turn; see `TurnProtocol.parse`. Blocks in other languages are text."""
        tool = _code_tool(tools)
        assert tool is not None, "checked"
        return read_turn(text, _OPENING, lambda: _Blocks(tool.name))

    def format_call(self, name: str, arguments: dict[str, Any], tools: Sequence[Tool]) -> str:
        """Return the block, in a longer fence if the code holds one.

        Raises:
            ValueError: if it is not a call of the code tool with code alone.
        """
        tool = _code_tool(tools)
        code = arguments.get(CODE_ARGUMENT)
        if tool is None or name != tool.name or list(arguments) != [CODE_ARGUMENT] or not isinstance(code, str):
            raise ValueError(f'{name}({", ".join(arguments)}) cannot be written in the protocol "fenced"')
        inner = [len(match["fence"]) for match in _CLOSING.finditer(code) if match["fence"][0] == "`"]
        fence = "`" * max(3, *(length + 1 for length in inner), 0)
        return check_reads_back(self, f"{fence}python\n{code}\n{fence}", name, arguments, tools)

    def format_answer(self, answer: str) -> str:
        """Return the answer in a box."""
        return f"\\boxed{{{answer}}}"


class _Blocks:
    """A reader of a turn's blocks, one after the other: a fence inside a block of text opens no other block."""

    def __init__(self, tool_name: str) -> None:
        self._tool_name = tool_name
        self._text_block: re.Match[str] | None = None

    def __call__(self, text: str, mark: re.Match[str]) -> tuple[ToolCall | None, int]:
        if self._text_block is not None:
            if not mark["info"].strip() and not mark["indent"].strip() and _closes(mark, self._text_block):
                self._text_block = None
            return None, mark.end()
        language = _LANGUAGE.match(mark["info"])
        assert language is not None, "also the empty text matches"
        if not _PYTHON.fullmatch(language[1]):
            self._text_block = mark
            return None, mark.end()
        closing = _find_closing(text, mark)
        code = text[mark.end() + 1 : closing.start()]
        if mark["info"].endswith("\r"):
            code = code.replace("\r\n", "\n")
        code = _without_indent(code.removesuffix("\n"), _columns(mark["indent"]))
        return ToolCall(self._tool_name, {CODE_ARGUMENT: code}), closing.end()


def _find_closing(text: str, opening: re.Match[str]) -> re.Match[str]:
    for closing in _CLOSING.finditer(text, opening.end()):
        if _closes(closing, opening):
            return closing
    fence = opening["fence"][:10]
    raise MalformedCall(f"the block {fence}python is not closed; end it with a line {fence}")


def _closes(closing: re.Match[str], opening: re.Match[str]) -> bool:
    is_in_place = _columns(closing["indent"]) <= _columns(opening["indent"]) + CLOSING_INDENT
    return closing["fence"].startswith(opening["fence"]) and is_in_place


def _columns(indent: str) -> int:
    return len(indent.expandtabs(TAB_COLUMNS))


def _without_indent(code: str, columns: int) -> str:
    """Remove up to this many columns of space from the start of each line."""
    if not columns:
        return code
    return _LINE_SPACE.sub(lambda space: _shortened(space[0], columns), code)


def _shortened(space: str, columns: int) -> str:
    column = 0
    for index, char in enumerate(space):
        if column >= columns:
            return " " * (column - columns) + space[index:]
        column += TAB_COLUMNS - column % TAB_COLUMNS if char == "\t" else 1
    return " " * max(column - columns, 0)


def _code_tool(tools: Sequence[Tool]) -> Tool | None:
    return next((tool for tool in tools if tool.parameters["required"] == [CODE_ARGUMENT]), None)
