"""Settings of a model's chat template, and the one place that makes a `ChatTokens` of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trm_agent.episode.call_protocol import shows_tools
from trm_agent.episode.chat import ROLES, ChatTokens
from trm_agent.episode.template import parsed_template, template_source
from trm_fields import nearest, refuse, refuse_name

ROLES_FIELD = "env.chat.roles"
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

    def __post_init__(self) -> None:
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
            if name != "roles":
                refuse_name(f"env.chat.{name}", ["roles"])
        roles = chat.get("roles", ROLES)
        return cls(
            roles=tuple(roles) if isinstance(roles, list | tuple) else (roles,),
            template_kwargs=dict(config["data"].get("apply_chat_template_kwargs") or {}),
            with_tools=shows_tools(env.get("kwargs") or {}),
        )

    def recorded(self) -> dict[str, Any]:
        """Return the settings that decide results, as a configuration holds them."""
        return {"roles": list(self.roles), "template_kwargs": dict(self.template_kwargs)}


def chat_tokens(tokenizer: Any, settings: ChatSettings | None = None) -> ChatTokens:
    """Return the renderer of a tokenizer's chat template, used by these settings.

    Raises:
        ValueError: as `ChatTokens`, and for a role of which the template says nothing.
    """
    settings = settings or ChatSettings()
    _check_roles(tokenizer, settings.roles)
    return ChatTokens(
        tokenizer,
        roles=settings.roles,
        template_kwargs=settings.template_kwargs,
        with_tools=settings.with_tools,
    )


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
        if role not in source:
            refuse(
                ROLES_FIELD,
                role,
                f"{', '.join(ROLES)}, or a role that the chat template names",
                nearest(role, ROLES, "give one of these"),
            )
