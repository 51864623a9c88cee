"""Ways around what a chat template leaves out of a prompt: told in a text that the template does show."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trm_agent.episode.content_slot import SLOT
from trm_agent.episode.template import PROBE_TOOL, USER, calling_message, render, said

SYSTEM, TOOLS, TOOL_ROLE = "system message", "tools", "tool role"


@dataclass(frozen=True)
class Fallback:
    """The parts of a prompt that go where the chat template shows them."""

    system_in_user: bool = False
    """Whether the system prompt opens the first user message."""
    call: str = ""
    """A tool call as text; if given, the system prompt describes the tools and the template gets none."""

    def prompt(
        self, system: str, user: str, tools: Sequence[Mapping[str, Any]]
    ) -> tuple[str, str, Sequence[Mapping[str, Any]]]:
        """Return the system prompt, the first user message and the tools as the template gets them."""
        if self.call and tools:
            system, tools = "\n\n".join(filter(None, (system, described(tools, self.call)))), ()
        if self.system_in_user and system:
            system, user = "", f"{system}\n\n{user}"
        return system, user, tools


def described(tools: Sequence[Mapping[str, Any]], call: str) -> str:
    """Return the words of a system prompt on its tools: their schemas, one per line, and the form of a call."""
    schemas = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return f"These tools can be called:\n{schemas}\n\nA call is written like this:\n{call}"


def left_out(tokenizer: Any, template_kwargs: Mapping[str, Any]) -> list[str]:
    """Return the parts of a conversation that a chat template does not show, of `SYSTEM`, `TOOLS`, `TOOL_ROLE`."""

    def shows(messages: Sequence[dict[str, Any]], text: str, tools: Sequence[Mapping[str, Any]] = ()) -> bool:
        try:
            return text in render(tokenizer, template_kwargs, messages, tools)
        except ValueError:
            return False

    asked = said("user", USER)
    answer = said("tool", SLOT)
    histories = ([asked, said("assistant", "")], [asked, calling_message([("trmprobetool", {})])])
    is_shown = {
        SYSTEM: shows([said("system", SLOT), asked], SLOT),
        TOOLS: shows([asked], PROBE_TOOL["function"]["name"], [PROBE_TOOL]),
        TOOL_ROLE: any(shows([*history, answer], SLOT) for history in histories),
    }
    return [part for part, shown in is_shown.items() if not shown]
