"""Chat settings of each checkpoint of an evaluation: those of its template, and the protocol behind `auto`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trm_agent.episode import ChatSettings
from trm_agent.episode.call_protocol import DEFAULT, OPTION, example_call, find_protocol, is_auto, resolved, shows_tools
from trm_agent.episode.chat_settings import DESCRIBE, check_variables, told_otherwise
from trm_fields import read_pairs

ROLES_FLAG, KWARGS_FLAG = "--roles", "--template-kwargs"


@dataclass(frozen=True)
class Chat:
    """The chat settings and protocol of a checkpoint."""

    settings: ChatSettings = field(default_factory=ChatSettings)
    """Settings of its chat template."""
    protocol: str = DEFAULT
    """Protocol for `protocol=auto`."""

    def kwargs(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return an environment's keyword arguments for this checkpoint."""
        return resolved(given, self.protocol)

    @property
    def note(self) -> str:
        """Return a note for people; "" for the default."""
        default = Chat().config()
        return ", ".join(f"{name} {value}" for name, value in self.config().items() if value != default[name])

    def config(self) -> dict[str, Any]:
        """Return the settings that decide results, as `config.yaml` holds them."""
        return {OPTION: self.protocol, **self.settings.recorded()}


def chat_of(
    run: Mapping[str, Any] | None, roles: Sequence[str] | None, template_kwargs: Mapping[str, Any] | None
) -> Chat:
    """Return the settings of a checkpoint: the user's, else those of the training run that it belongs to.

    Raises:
        ValueError: a setting is not allowed.
    """
    settings = ChatSettings.of_run(run) if run is not None else ChatSettings()
    try:
        if roles is not None:
            settings = replace(settings, roles=tuple(roles))
        if template_kwargs is not None:
            settings = replace(settings, template_kwargs=dict(template_kwargs))
    except ValueError as error:
        raise ValueError(f"{ROLES_FLAG}, {KWARGS_FLAG}: {error}") from error
    return Chat(settings)


def with_protocols(
    chats: Sequence[Chat], labels: Sequence[str], tokenizers: Sequence[Any], environments: Sequence[Mapping[str, Any]]
) -> tuple[Chat, ...]:
    """Return the chats with the protocols that their tokenizers' templates need.

    Args:
        chats: of the checkpoints.
        labels: of the checkpoints.
        tokenizers: of the checkpoints.
        environments: the keyword arguments of each environment of the plan.

    Raises:
        ValueError: no protocol reads a checkpoint's calls, or no template has one of the variables.
    """
    variables = {name: value for chat in chats for name, value in chat.settings.template_kwargs.items()}
    try:
        check_variables(tokenizers, variables)
    except ValueError as error:
        raise ValueError(f"{KWARGS_FLAG}: {error}") from error
    found = []
    for chat, label, tokenizer in zip(chats, labels, tokenizers, strict=True):
        if any(map(is_auto, environments)):
            try:
                chat = replace(chat, protocol=_protocol(tokenizer, chat.settings))
            except ValueError as error:
                raise ValueError(f"{label}: {error}") from error
        with_tools = any(shows_tools(chat.kwargs(each)) for each in environments)
        calls = {example_call(chat.kwargs(each)) for each in environments} - {""}
        call = calls.pop() if len(calls) == 1 else ""
        settings = replace(chat.settings, with_tools=with_tools, call=call)
        found.append(replace(chat, settings=settings))
        for line in told_otherwise(tokenizer, settings):
            print(f"{label}: {line}", flush=True)
    return tuple(found)


def _protocol(tokenizer: Any, settings: ChatSettings) -> str:
    return find_protocol(tokenizer, settings.template_kwargs, settings.fallback == DESCRIBE)


def template_kwargs_of(texts: Sequence[str]) -> dict[str, Any] | None:
    """Read the user's NAME=VALUE texts; a value is JSON, else text. None without texts.

    Raises:
        ValueError: a text without `=`.
    """
    return read_pairs(KWARGS_FLAG, texts, "enable_thinking=false") or None
