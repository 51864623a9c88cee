r"""Fenced Python code as the tool call, and boxed answers: what base models write by themselves.

    ```python
    print(3 + 4)
    ```

Each block is a call of the environment's code tool, the first tool with an argument `code`. The answer is the last
`\boxed{...}` of a turn without a block.
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from trm_envs.scoring.extract import after_thoughts, last_boxed
from trm_envs.tools import Tool
from trm_envs.turn import ParsedTurn, ToolCall

CODE_ARGUMENT = "code"
_FENCE = re.compile(r"^[ \t]*```[ \t]*(\w*)[ \t]*$", re.MULTILINE)
_LANGUAGES = ("python", "py", "python3")


class Fenced:
    """Python code in fences."""

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
        """Say how to write code and answers."""
        tool = _code_tool(tools)
        assert tool is not None, "checked"
        return (
            f"To run code, write it in a block that begins with ```python and ends with ```: {tool.description} "
            "Give the final answer as \\boxed{...} in a turn without code."
        )

    def parse(self, text: str, tools: Sequence[Tool]) -> ParsedTurn:
        """Read one assistant turn; see `TurnProtocol.parse`. Blocks in other languages are text."""
        visible = after_thoughts(text)
        tool = _code_tool(tools)
        assert tool is not None, "checked"
        calls: list[ToolCall] = []
        fences = list(_FENCE.finditer(visible))
        position = 0
        while position < len(fences):
            fence = fences[position]
            is_code = fence[1].lower() in _LANGUAGES
            end = position + 1
            # only a bare fence closes a block
            while end < len(fences) and fences[end][1]:
                end += 1
            if end == len(fences):
                if is_code:
                    return ParsedTurn(malformed="the block ```python is not closed; end it with a line ```")
                break
            if is_code:
                code = visible[fence.end() + 1 : fences[end].start()]
                calls.append(ToolCall(tool.name, {CODE_ARGUMENT: code}))
            position = end + 1
        return ParsedTurn(calls=tuple(calls)) if calls else ParsedTurn(answer=last_boxed(visible) or None)

    def format_call(self, name: str, arguments: dict[str, Any], tools: Sequence[Tool]) -> str:
        """Return the block.

        Raises:
            ValueError: if it is not a call of the code tool with code alone.
        """
        tool = _code_tool(tools)
        if tool is None or name != tool.name or list(arguments) != [CODE_ARGUMENT]:
            raise ValueError(f'{name}({", ".join(arguments)}) cannot be written in the protocol "fenced"')
        return f"```python\n{arguments[CODE_ARGUMENT].rstrip()}\n```"

    def format_answer(self, answer: str) -> str:
        """Return the answer in a box."""
        return f"\\boxed{{{answer}}}"


def _code_tool(tools: Sequence[Tool]) -> Tool | None:
    return next((tool for tool in tools if tool.parameters["required"] == [CODE_ARGUMENT]), None)
