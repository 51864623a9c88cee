r"""Calls as GLM-4.5, 4.6 and 4.7 write them, as many as the model likes, and boxed answers.

    <tool_call>look_up
    <arg_key>key</arg_key>
    <arg_value>one</arg_value>
    </tool_call>

Newlines between the tags may be left out, as GLM-4.7 does. A value is all that stands between its tags; it ends at the
first `</arg_value>` that the next `<arg_key>` or `</tool_call>` follows; any other is text.
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from trm_envs.protocols.hermes import CALL_CLOSE, CALL_OPEN, start_of_call
from trm_envs.protocols.reading import TemplateProtocol
from trm_envs.protocols.strict_json import MAX_SHOWN_CHARS, skip_space
from trm_envs.protocols.values import read_value, schemas_of, write_value
from trm_envs.thoughts import Decoder
from trm_envs.tools import Tool
from trm_envs.turn import MalformedCall, ToolCall

_NAME = re.compile(r"[^\s<>{}\[\]\"]+")
_KEY = re.compile(r"<arg_key>([^<>]+)</arg_key>[ \t\r\n]*<arg_value>")
_VALUE_END = re.compile(r"</arg_value>(?=[ \t\r\n]*(?:<arg_key>|</tool_call>))")


class ArgTags(TemplateProtocol):
    """The function's name, then a pair of tags for each argument."""

    name: ClassVar[str] = "arg_tags"
    opening: ClassVar[str] = f"{CALL_OPEN}|{CALL_CLOSE}"

    def decoder(self, tools: Sequence[Tool]) -> Decoder[ToolCall]:
        """Return what reads a call from its opening."""
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
    schemas = schemas_of(named[0], tools)
    arguments: dict[str, Any] = {}
    position = skip_space(text, named.end())
    while not text.startswith(CALL_CLOSE, position):
        key = _KEY.match(text, position)
        if key is None:
            rest = text[position : position + MAX_SHOWN_CHARS]
            raise MalformedCall(
                f"in the call of {named[0][:MAX_SHOWN_CHARS]}: expected <arg_key>name</arg_key> and <arg_value>, or "
                f"{CALL_CLOSE}, found {rest!r}"
            )
        argument = key[1].strip()
        if argument in arguments:
            raise MalformedCall(f"the argument {argument[:MAX_SHOWN_CHARS]} stands twice in one call")
        found = read_value(text, key.end(), _VALUE_END, schemas.get(argument))
        if found is None:
            raise MalformedCall(
                f"the <arg_value> of {argument[:MAX_SHOWN_CHARS]} has no </arg_value> before <arg_key> or {CALL_CLOSE}"
            )
        arguments[argument], end = found
        position = skip_space(text, end)
    return ToolCall(named[0], arguments), position + len(CALL_CLOSE)
