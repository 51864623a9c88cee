"""Settings of a model's chat template, and the one place that makes a `ChatTokens` of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trm_agent.episode.call_protocol import example_call, shows_tools
from trm_agent.episode.chat import ROLES, ChatTokens
from trm_agent.episode.fallback import SYSTEM, TOOL_ROLE, TOOLS, Fallback, left_out
from trm_agent.episode.template import parsed_template, template_source
from trm_fields import OneOf, nearest, refuse, refuse_name

ROLES_FIELD, FALLBACK_FIELD = "env.chat.roles", "env.chat.fallback"
DESCRIBE, REFUSE = FALLBACKS = ("describe", "refuse")
KWARGS_FIELD = "data.apply_chat_template_kwargs"
# what `apply_chat_template` takes beside the template's own variables
_RESERVED = (
    *("conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt"),
    *("continue_final_message", "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
    *("return_assistant_tokens_mask", "tokenizer_kwargs"),
)


@dataclass(frozen=True)
class ChatSettings:
    """How a chat template is used.

    Raises:
        ValueError: a value is not allowed.
    """

    roles: tuple[str, ...] = ROLES
    """Roles in which answers are told; what is left out is told in the first."""
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Further variables of the template, such as `enable_thinking`."""
    with_tools: bool = True
    """Whether the template will be given tools."""
    fallback: str = DESCRIBE
    """Treatment of what the template leaves out: `describe` it where it is shown, or `refuse` the template."""
    call: str = field(default_factory=lambda: example_call({}))
    """A tool call as the model has to write it, for a template that shows no tools; "" if it has several forms."""

    def __post_init__(self) -> None:
        OneOf(FALLBACKS).check(FALLBACK_FIELD, self.fallback)
        object.__setattr__(self, "roles", tuple(self.roles))
        are_names = all(isinstance(role, str) and role for role in self.roles)
        if not self.roles or not are_names or len(set(self.roles)) < len(self.roles) or "assistant" in self.roles:
            refuse(
                ROLES_FIELD,
                list(self.roles),
                "a list of different roles that answer the model",
                "give [tool,user], or [user] where the chat template has no tool role",
            )
        for name in self.template_kwargs:
            if name in _RESERVED:
                refuse(
                    f"{KWARGS_FIELD}.{name}",
                    self.template_kwargs[name],
                    "variables of the chat template, such as enable_thinking",
                    "leave it out, it is set for each message",
                )

    @classmethod
    def of_run(cls, config: Mapping[str, Any]) -> ChatSettings:
        """Return the settings of a training run.

        Args:
            config: a run's configuration as plain dictionaries; `env.chat` and `data.apply_chat_template_kwargs` may
                be absent, as in configurations from before there was either.

        Raises:
            ValueError: an unknown field of `env.chat`, or a value that is not allowed.
        """
        env = config["env"]
        chat = env.get("chat") or {}
        for name in chat:
            if name not in ("roles", "fallback"):
                refuse_name(f"env.chat.{name}", ["roles", "fallback"])
        roles = chat.get("roles", ROLES)
        return cls(
            roles=tuple(roles) if isinstance(roles, list | tuple) else (roles,),
            template_kwargs=dict(config["data"].get("apply_chat_template_kwargs") or {}),
            with_tools=shows_tools(env.get("kwargs") or {}),
            fallback=chat.get("fallback", DESCRIBE),
            call=example_call(env.get("kwargs") or {}),
        )

    def recorded(self) -> dict[str, Any]:
        """Return the settings that decide results, as a configuration holds them."""
        return {
            "roles": list(self.roles),
            "template_kwargs": dict(self.template_kwargs),
            "fallback": self.fallback,
        }


def chat_tokens(tokenizer: Any, settings: ChatSettings | None = None) -> ChatTokens:
    """Return the renderer of a tokenizer's chat template, used by these settings.

    Raises:
        ValueError: as `ChatTokens`, for a role of which the template says nothing, and for what the template leaves
            out if it is not to be described.
    """
    settings = settings or ChatSettings()
    _check_roles(tokenizer, settings.roles)
    missing = missing_parts(tokenizer, settings)
    if missing and settings.fallback == REFUSE:
        refuse(
            FALLBACK_FIELD,
            REFUSE,
            DESCRIBE,
            "set it, or give the tokenizer a template that shows them",
            because=f"but the chat template shows no {', no '.join(missing)}",
        )
    if TOOLS in missing and not settings.call:
        raise ValueError(
            "tokenizer.chat_template: does not show the tools, and the environments have different forms of a call; "
            "set the same protocol for all"
        )
    return ChatTokens(
        tokenizer,
        roles=[role for role in settings.roles if role != "tool" or TOOL_ROLE not in missing],
        template_kwargs=settings.template_kwargs,
        with_tools=settings.with_tools,
        fallback=Fallback(SYSTEM in missing, settings.call if TOOLS in missing else ""),
    )


def missing_parts(tokenizer: Any, settings: ChatSettings) -> list[str]:
    """Return what a chat template leaves out of what it will be given: of `SYSTEM`, `TOOLS`, `TOOL_ROLE`."""
    is_needed = {
        SYSTEM: True,
        TOOLS: settings.with_tools,
        TOOL_ROLE: "tool" in settings.roles and len(settings.roles) > 1,
    }
    return [part for part in left_out(tokenizer, settings.template_kwargs) if is_needed[part]]


def told_otherwise(tokenizer: Any, settings: ChatSettings) -> list[str]:
    """Return for people what the template leaves out and where each part goes instead."""
    ways = {
        SYSTEM: "the system prompt opens the first user message",
        TOOLS: "the system prompt describes them and the form of a call",
        TOOL_ROLE: f"a tool's result is told as {next((role for role in settings.roles if role != 'tool'), '')}",
    }
    return [f"the chat template shows no {part}: {ways[part]}" for part in missing_parts(tokenizer, settings)]


def check_variables(tokenizers: Sequence[Any], template_kwargs: Mapping[str, Any]) -> None:
    """Check that a template knows each variable: others are ignored without a word.

    Args:
        tokenizers: with chat templates; a variable of one of them will do.

    Raises:
        ValueError: none of the templates has such a variable.
    """
    if not template_kwargs:
        return
    from jinja2 import meta

    known: set[str] = set()
    for tokenizer in tokenizers:
        known |= meta.find_undeclared_variables(parsed_template(tokenizer)) | tokenizer.special_tokens_map.keys()
    for name, value in template_kwargs.items():
        if name not in known:
            own = known - {"messages", "tools", "add_generation_prompt", "raise_exception", "strftime_now"}
            refuse(
                f"{KWARGS_FIELD}.{name}",
                value,
                ", ".join(sorted(own)) or "none",
                f"{nearest(name, own, 'give one of these')} Or leave it out",
                because="but the chat template has no such variable",
            )


def _check_roles(tokenizer: Any, roles: Sequence[str]) -> None:
    """Refuse a role that neither is one of ours nor stands in the template, which may show any text as a role."""
    own = [role for role in roles if role not in ROLES]
    if not own:
        return
    source = template_source(tokenizer)
    for role in own:
        if not re.search(rf"(?<!\w){re.escape(role)}(?!\w)", source):
            refuse(
                ROLES_FIELD,
                role,
                f"{', '.join(ROLES)}, or a role that the chat template names",
                nearest(role, ROLES, "give one of these"),
            )
