r"""Calls as Qwen3-Coder, Qwen3.5 and Nemotron 3 write them, as many as the model likes, and boxed answers.

    <tool_call>
    <function=look_up>
    <parameter=key>
    one
    </parameter>
    </function>
    </tool_call>

One newline after the opening and one before the closing tag of a parameter are the template's; the rest is the value. A
value ends at the first `</parameter>` that the next parameter or `</function>` follows; any other is text. These models
leave out `<tool_call>` or `</tool_call>` at times: `<function=` at the start of a line opens a call as well, and
`</function>` is enough to end it.
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from trm_envs.protocols.hermes import CALL_CLOSE, CALL_OPEN, start_of_call
from trm_envs.protocols.reading import TemplateProtocol
from trm_envs.protocols.strict_json import skip_space
from trm_envs.protocols.values import ArgumentTags, read_arguments, write_value
from trm_envs.thoughts import Decoder
from trm_envs.tools import Tool
from trm_envs.turn import MalformedCall, ToolCall

FUNCTION_CLOSE = "</function>"
_FUNCTION = re.compile(r"[ \t]*<function=([^<>\n]+)>")
_TAGS = ArgumentTags(
    opening=re.compile(r"<parameter=([^<>\n]+)>\n?"),
    closing=re.compile(r"\n?</parameter>(?=[ \t\r\n]*(?:<parameter=|</function>))"),
    end=FUNCTION_CLOSE,
    expected=f"in <function={{}}>: expected <parameter=name> or {FUNCTION_CLOSE}",
    shown="<parameter={}>",
    unclosed=f"<parameter={{}}> without </parameter> before the next parameter or {FUNCTION_CLOSE}",
)


class FunctionTags(TemplateProtocol):
    """A protocol with a tag for the function and one for each parameter."""

    name: ClassVar[str] = "function_tags"
    opening: ClassVar[str] = rf"{CALL_OPEN}|{CALL_CLOSE}|^[ \t]*<function="

    def decoder(self, tools: Sequence[Tool]) -> Decoder[ToolCall]:
        """Return the function that reads a call from its opening."""
        return lambda text, mark: _decode(text, mark, tools)

    def write(self, name: str, arguments: dict[str, Any]) -> str:
        """Return the text of a call."""
        values = [f"<parameter={key}>\n{write_value(value)}\n</parameter>\n" for key, value in arguments.items()]
        return f"{CALL_OPEN}\n<function={name}>\n{''.join(values)}{FUNCTION_CLOSE}\n{CALL_CLOSE}"


def _decode(text: str, mark: re.Match[str], tools: Sequence[Tool]) -> tuple[ToolCall, int]:
    is_wrapped = mark[0] in (CALL_OPEN, CALL_CLOSE)
    function = _FUNCTION.match(text, start_of_call(text, mark) if is_wrapped else mark.start())
    if function is None:
        raise MalformedCall(f"after {CALL_OPEN} comes <function=name>, then the parameters, then {FUNCTION_CLOSE}")
    call, end = read_arguments(text, function.end(), function[1], tools, _TAGS)
    close = skip_space(text, end)
    return call, close + len(CALL_CLOSE) if text.startswith(CALL_CLOSE, close) else end
