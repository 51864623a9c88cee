"""The first prompt and a tool turn of an environment as a model reads them, without an engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trm_agent.episode import ChatSettings, chat_tokens
from trm_agent.episode.call_protocol import find_protocol, is_auto, resolved
from trm_agent.episode.chat_settings import DESCRIBE, check_variables, told_otherwise
from trm_agent.episode.preview import preview
from trm_agent.models.nano import make_tokenizer
from trm_agent.models.nano_spec import NanoSpec
from trm_agent.models.smollm2 import SMOLLM2, ensure_smollm2
from trm_agent.runs.chat import load_tokenizer
from trm_agent.runs.environment_check import Wording, check_registered
from trm_agent.runs.preflight import NANO
from trm_agent.tasks import Task, make_env


def first_prompt(
    model: str, task: Task, module: str | None, run: Mapping[str, Any], tokenizer: Any = None
) -> list[str]:
    """Return the lines of a preview: the protocol, what the template leaves out, the texts.

    Args:
        model: a folder with a tokenizer, a hub id, `smollm2`, or `nano`.
        task: the task to begin.
        module: the module that registers its environment.
        run: `env.kwargs`, `env.chat` and `data.apply_chat_template_kwargs` as a configuration holds them.
        tokenizer: the model's tokenizer, if it is loaded.

    Raises:
        ValueError: the tokenizer cannot be loaded, or its template cannot be used with these settings.
    """
    notes = []
    if tokenizer is None and model == NANO:
        tokenizer, note = _nano_tokenizer(task.env_id, module, run["env"]["kwargs"])
        notes.append(note)
    elif tokenizer is None:
        tokenizer = load_tokenizer(str(ensure_smollm2()) if model == SMOLLM2 else model)
    settings, kwargs = ChatSettings.of_run(run), dict(run["env"]["kwargs"])
    if is_auto(kwargs):
        protocol = find_protocol(tokenizer, settings.template_kwargs, settings.fallback == DESCRIBE)
        kwargs = resolved(kwargs, protocol)
        settings = ChatSettings.of_run({**run, "env": {**run["env"], "kwargs": kwargs}})
    check_variables([tokenizer], settings.template_kwargs)
    chat = chat_tokens(tokenizer, settings)
    env = make_env(task.env_id, module, kwargs)
    try:
        shown = preview(env, tokenizer, chat, task.seed, task.options)
    finally:
        env.close()
    notes = [f"protocol: {kwargs['protocol']}", *notes] if "protocol" in kwargs else notes
    return [*notes, *told_otherwise(tokenizer, settings), *shown.lines()]


def _nano_tokenizer(env_id: str, module: str | None, kwargs: Mapping[str, Any]) -> tuple[Any, str]:
    """Make the tokenizer of an environment's nano model, without a solver that of the default one; say which."""
    try:
        spec = NanoSpec(env_id=env_id, env_module=module, env_kwargs=dict(kwargs))
        return make_tokenizer(spec), f"tokenizer: of the nano model of {env_id}"
    except (NotImplementedError, RuntimeError) as error:
        spec = NanoSpec()
        return make_tokenizer(spec), f"tokenizer: of the nano model of {spec.env_id}, since {error}"


def prompt_of_id(model: str, name: str, seed: int, options: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    """Return `first_prompt` of an environment that a user names on a command line.

    Args:
        model: as there.
        name: an id, or MODULE:ID.
        seed: of the task.
        options: of the task.
        run: as there.

    Raises:
        ValueError: as there, and for a module that cannot be imported or an id that is not registered.
    """
    module, _, env_id = name.rpartition(":")
    check_registered(env_id, module or None, Wording("the id", "the module", "give your own as MODULE:ID", "options"))
    return first_prompt(model, Task(env_id, seed, dict(options)), module or None, run)
