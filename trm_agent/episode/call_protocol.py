"""`protocol=auto`: the protocol that reads the tool calls which the model's own chat template writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from trm_agent.episode.template import USER, calling_message, render, said
from trm_envs.protocols import PROTOCOLS
from trm_envs.tools import Tool
from trm_envs.turn import ToolCall

AUTO = "auto"
# of every environment that is not told otherwise
DEFAULT = "hermes"
OPTION = "protocol"
_REMEDY = (
    "set protocol=tags, or protocol=fenced where code is the only tool (env.kwargs.protocol=..., for trm eval --set "
    "protocol=...): the system prompt then describes tools and calls; or protocol=hermes for a model that was taught it"
)


def trmprobetool(code: str, count: int) -> str:
    """Stand in for a tool."""
    return code * count


_TOOL = Tool(trmprobetool)
_CALL = ToolCall("trmprobetool", {"code": "print(\"é\")\nif 1 < 2:\n    x = {'a': [1]}", "count": 3})


def function_name(argument_name: str) -> str:
    """Stand in for a tool in the example of a call."""
    return argument_name


def find_protocol(
    tokenizer: Any, template_kwargs: Mapping[str, Any] | None = None, describes_tools: bool = False
) -> str:
    """Return the name of the protocol that reads an assistant turn with a tool call, as the chat template writes it.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        template_kwargs: further variables for the template.
        describes_tools: whether the system prompt describes tools and calls where the template does not show tools; one
            that writes no calls either gets the default protocol.

    Raises:
        ValueError: the template writes no calls, writes them as no protocol reads them, or does not show the tools.
    """

    def rendered(arguments: Any) -> str:
        messages = [said("user", USER), calling_message([(_CALL.name, arguments)])]
        return render(tokenizer, template_kwargs or {}, messages, [_TOOL.schema], ask=False)

    written = [_turn(rendered, arguments) for arguments in (_CALL.arguments, json.dumps(_CALL.arguments))]
    by_template = [protocol for protocol in PROTOCOLS.values() if protocol.template_shows_tools]
    read = [each.name for text in written for each in by_template if each.parse(text, [_TOOL]).calls == (_CALL,)]
    shows_tools = _CALL.name in render(tokenizer, template_kwargs or {}, [said("user", USER)], [_TOOL.schema])
    if not read:
        shown = next((text for text in written if _CALL.name in text), "")
        if describes_tools and not shown and not shows_tools:
            return DEFAULT
        what = (
            f"writes a tool call as {_excerpt(shown)!r}, which no protocol reads" if shown else "writes no tool calls"
        )
        forms = ", ".join(each.name for each in by_template)
        raise ValueError(
            f"tokenizer.chat_template: {what}; protocol=auto finds {forms} (JSON in <tool_call> tags, "
            f"<function=...><parameter=...>, <arg_key>/<arg_value>); {_REMEDY}"
        )
    if not shows_tools and not describes_tools:
        raise ValueError(f"tokenizer.chat_template: does not show the tools to the model; {_REMEDY}")
    return read[0]


def resolved(kwargs: Mapping[str, Any], protocol: str) -> dict[str, Any]:
    """Return an environment's keyword arguments with a name in the place of `protocol=auto`."""
    return {**kwargs, OPTION: protocol} if is_auto(kwargs) else dict(kwargs)


def is_auto(kwargs: Mapping[str, Any]) -> bool:
    """Whether the protocol is still to be found."""
    return kwargs.get(OPTION) == AUTO


def shows_tools(kwargs: Mapping[str, Any]) -> bool:
    """Whether the chat template gets the tools of an environment with these keyword arguments."""
    protocol = PROTOCOLS.get(kwargs.get(OPTION, DEFAULT))
    return protocol is None or protocol.template_shows_tools


def example_call(kwargs: Mapping[str, Any]) -> str:
    """Return a call as the protocol of these keyword arguments writes it; "" if it describes the tools itself."""
    if not shows_tools(kwargs):
        return ""
    protocol = PROTOCOLS.get(kwargs.get(OPTION, DEFAULT), PROTOCOLS[DEFAULT])
    return protocol.format_call("function_name", {"argument_name": "value"}, [Tool(function_name)])


def _turn(rendered: Callable[[Any], str], arguments: Any) -> str:
    """Return the assistant's turn without its thought; "" where the template cannot write it."""
    try:
        text = rendered(arguments)
    except ValueError:
        return ""
    return text.rpartition(USER)[2].rpartition("</think>")[2]


def _excerpt(text: str) -> str:
    """Return the call and a little before it."""
    start = max(0, text.index(_CALL.name) - 24)
    return text[start : start + 80]
