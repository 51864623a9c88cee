"""The chat template of a training run: its settings, its tokens, and the protocol behind `protocol=auto`."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from omegaconf import DictConfig, open_dict

from trm_agent.episode import ChatSettings, ChatTokens, chat_tokens
from trm_agent.episode.call_protocol import DEFAULT, find_protocol, is_auto
from trm_agent.episode.chat_settings import DESCRIBE, check_variables, told_otherwise
from trm_agent.models.smollm2 import SMOLLM2
from trm_agent.runs.compose import plain
from trm_agent.runs.endings.explain import known_cause
from trm_agent.runs.preflight import MODEL_PATH, NANO

_KWARGS = "apply_chat_template_kwargs"


def chat_settings(config: DictConfig) -> ChatSettings:
    """Return the settings of a run.

    Raises:
        ValueError: `env.chat` or `data.apply_chat_template_kwargs` holds a value that is not allowed.
    """
    return ChatSettings.of_run({"env": plain(config.env), "data": {_KWARGS: _template_kwargs(config)}})


def run_chat_tokens(tokenizer: Any, config: DictConfig) -> ChatTokens:
    """Return the renderer of a run.

    Raises:
        ValueError: the template cannot be used with these settings; the message begins with the field of the model.
    """
    settings = chat_settings(config)
    try:
        chat = chat_tokens(tokenizer, settings)
        told = told_otherwise(tokenizer, settings)
    except ValueError as error:
        raise ValueError(f"{MODEL_PATH}={config.actor_rollout_ref.model.path}: {error}") from error
    check_variables([tokenizer], settings.template_kwargs)
    for line in told:
        print(f"{MODEL_PATH}={config.actor_rollout_ref.model.path}: {line}", flush=True)
    return chat


def resolve_protocol(config: DictConfig, call: Callable[..., str] = lambda find, *given: find(*given)) -> None:
    """Replace `env.kwargs.protocol=auto` by the name of the protocol that reads the model's own tool calls.

    Args:
        config: a composed configuration.
        call: calls the function that loads the tokenizer, which takes seconds, with its arguments.

    Raises:
        ValueError: the model has no tokenizer that can be loaded, or no protocol reads its calls.
    """
    if not is_auto(config.env.kwargs):
        return
    path = config.actor_rollout_ref.model.path
    # the protocol of the project's own template
    name = (
        DEFAULT if path in (NANO, SMOLLM2) else call(_own_protocol, path, _template_kwargs(config), _describes(config))
    )
    with open_dict(config):
        config.env.kwargs.protocol = name


def _own_protocol(path: str, template_kwargs: dict[str, Any], describes: bool) -> str:
    tokenizer = load_tokenizer(path)
    try:
        return find_protocol(tokenizer, template_kwargs, describes)
    except ValueError as error:
        raise ValueError(f"{MODEL_PATH}={path}: {error}") from error


@lru_cache(maxsize=1)
def load_tokenizer(path: str) -> Any:
    """Return the tokenizer of `actor_rollout_ref.model.path`.

    Raises:
        ValueError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        raise ValueError(
            f"{MODEL_PATH}={path}: the tokenizer cannot be loaded: {known_cause(str(error), path)}; give a folder or "
            "a hub id that has one"
        ) from error


def _describes(config: DictConfig) -> bool:
    return (config.env.get("chat") or {}).get("fallback", DESCRIBE) == DESCRIBE


def _template_kwargs(config: DictConfig) -> dict[str, Any]:
    given = config.data.get(_KWARGS)
    return plain(given) if given else {}
