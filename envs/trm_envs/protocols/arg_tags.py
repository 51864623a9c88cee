r"""Calls as GLM-4.5, 4.6 and 4.7 write them, as many as the model likes, and boxed answers.

    <tool_call>look_up
    <arg_key>key</arg_key>
    <arg_value>one</arg_value>
    </tool_call>

Newlines between the tags may be left out, as GLM-4.7 does. A value is everything between its tags; it ends at the
first `</arg_value>` that the next `<arg_key>` or `</tool_call>` follows; any other is text.
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from trm_envs.protocols.hermes import CALL_CLOSE, CALL_OPEN, start_of_call
from trm_envs.protocols.reading import TemplateProtocol
from trm_envs.protocols.values import ArgumentTags, read_arguments, write_value
from trm_envs.thoughts import Decoder
from trm_envs.tools import Tool
from trm_envs.turn import MalformedCall, ToolCall

_NAME = re.compile(r"[^\s<>{}\[\]\"]+")
_TAGS = ArgumentTags(
    opening=re.compile(r"<arg_key>([^<>]+)</arg_key>[ \t\r\n]*<arg_value>"),
    closing=re.compile(r"</arg_value>(?=[ \t\r\n]*(?:<arg_key>|</tool_call>))"),
    end=CALL_CLOSE,
    expected=f"in the call of {{}}: expected <arg_key>name</arg_key> and <arg_value>, or {CALL_CLOSE}",
    shown="the argument {}",
    unclosed=f"the <arg_value> of {{}} has no </arg_value> before <arg_key> or {CALL_CLOSE}",
    strips_names=True,
)


class ArgTags(TemplateProtocol):
    """A protocol with the function's name, then a pair of tags for each argument."""

    name: ClassVar[str] = "arg_tags"
    opening: ClassVar[str] = f"{CALL_OPEN}|{CALL_CLOSE}"

    def decoder(self, tools: Sequence[Tool]) -> Decoder[ToolCall]:
        """Return the function that reads a call from its opening."""
        return lambda text, mark: _decode(text, mark, tools)

    def write(self, name: str, arguments: dict[str, Any]) -> str:
        """Return the text of a call."""
        pairs = [
            f"<arg_key>{key}</arg_key>\n<arg_value>{write_value(value)}</arg_value>\n"
            for key, value in arguments.items()
        ]
        return f"{CALL_OPEN}{name}\n{''.join(pairs)}{CALL_CLOSE}"


def _decode(text: str, mark: re.Match[str], tools: Sequence[Tool]) -> tuple[ToolCall, int]:
    named = _NAME.match(text, start_of_call(text, mark))
    if named is None:
        raise MalformedCall(f"after {CALL_OPEN} comes the function's name, then <arg_key> and <arg_value> in turn")
    return read_arguments(text, named.end(), named[0], tools, _TAGS)
