"""The look at a run before it begins: `trm train --check`. Nothing is written, and Ray does not start."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trm_agent.runs.compose import plain
from trm_agent.runs.forked_workers import told_start
from trm_agent.runs.origin import begins, start_step
from trm_agent.tasks import TRAIN, VALIDATION, num_greedy, task_at
from trm_fields import refuse

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from trm_agent.runs.model_facts import ModelFacts

_LIMITS = ("max_turns", "max_tool_calls", "max_malformed_turns", "max_turn_tokens", "max_observation_tokens")


def facts_of_run(config: DictConfig) -> tuple[ModelFacts, str]:
    """Load the facts of a run's model without making one: of a nano model that is not there, its tokenizer is made.

    Returns:
        The facts, and the folder of the model or its hub id.

    Raises:
        ValueError: the tokenizer or the configuration cannot be loaded.
    """
    from trm_agent.models.nano import NanoSpec, is_made, make_tokenizer, nano_folder
    from trm_agent.models.smollm2 import SMOLLM2, is_converted, smollm2_folder
    from trm_agent.runs.chat import run_chat_tokens
    from trm_agent.runs.model_facts import ModelFacts, load_facts
    from trm_agent.runs.preflight import MODEL_PATH, NANO

    path = str(config.actor_rollout_ref.model.path)
    if path == SMOLLM2:
        path = str(smollm2_folder())
        if not is_converted(Path(path)):
            remedy = "python -m trm_agent.models.smollm2 fetches and converts it"
            refuse(
                MODEL_PATH, SMOLLM2, "a model that is there, for --check", remedy, because="which is not in the cache"
            )
    if path != NANO:
        return load_facts(config, path), path
    spec = NanoSpec(**plain(config.nano))
    folder = nano_folder(spec)
    if is_made(folder):
        return load_facts(config, str(folder)), str(folder)
    tokenizer = make_tokenizer(spec)
    return ModelFacts(tokenizer, run_chat_tokens(tokenizer, config), len(tokenizer), None), str(folder)


def look(config: DictConfig, facts: ModelFacts, model: str, step: int = 0, notes: str = "") -> list[str]:
    """Check a configuration that passed `preflight.check` against its model, and describe the run.

    Args:
        config: the configuration.
        facts: the facts of its model.
        model: the model's folder, or its hub id.
        step: the step after which an extended run goes on.
        notes: lines to begin with.

    Returns:
        Lines for the user: the first prompt and a tool turn as the model reads them, limits, steps, disk.

    Raises:
        ValueError: a setting does not fit the model, or the disk is too small.
    """
    from trm_agent.runs.endings.disk import check_disk
    from trm_agent.runs.first_prompt import first_prompt
    from trm_agent.runs.preflight_model import check_model

    check_model(config, facts)
    disk = check_disk(config, _nearest(config), model, step)
    sections = {name: plain(config[name]) for name in ("env", "data")}
    task = task_at(sections["env"], TRAIN, 0)
    shown = first_prompt(model, task, config.env.module, sections, facts.tokenizer)
    unchecked = "not checked: verl's own rules" + ("" if step else ", and whether an unfinished run would be resumed")
    told = [notes, *shown, *_limits(config), *_steps(config, step), disk, unchecked, "nothing was started or written"]
    return [line for line in told if line]


def _limits(config: DictConfig) -> list[str]:
    limits, data = config.env.limits, config.data
    told = ", ".join(f"{name} {limits[name]}" for name in _LIMITS if limits.get(name) is not None)
    return [f"limits: {told}, prompt {data.max_prompt_length} and response {data.max_response_length} tokens"]


def _steps(config: DictConfig, step: int) -> list[str]:
    from trm_agent.runs.repeating import repetition
    from trm_agent.trust_region.guarantee import told_guarantee, told_selection

    trainer, batch, group = config.trainer, config.data.train_batch_size, config.actor_rollout_ref.rollout.n
    first = 1 + (step or start_step(config))
    how = f"goes on after step {step}" if step else begins(config)
    return [
        f"run: {config.env.id}, seed {config.seed}, {how}, {_place(config)}",
        f"steps: {first} to {trainer.total_training_steps}, {batch} tasks of {group} episodes each",
        _horizons(config.env),
        repetition(config),
        told_start(config),
        told_guarantee(config),
        told_selection(config),
        f"validation: {_validated(trainer, step, config.env)}; checkpoints: {_every(trainer.save_freq)}",
    ]


def _horizons(env: DictConfig) -> str:
    """Return the horizons of training's and validation's tasks."""
    train, val = (" ".join(map(str, env[stream].horizons)) for stream in (TRAIN, VALIDATION))
    chosen = " as the curriculum chooses" if env.train.curriculum.enable else ""
    return f"horizons: {train} in training{chosen}, {val} in validation"


def _place(config: DictConfig) -> str:
    run = config.run
    return f"in {run.dir}" if run.dir else f"in {Path(run.root) / run.name}-NNN, numbered"


def _validated(trainer: DictConfig, step: int, env: DictConfig) -> str:
    """Return when a run validates; one that goes on has validated its first step already."""
    first = "before the first step" if trainer.val_before_train and not step else ""
    later = _every(trainer.test_freq) if trainer.test_freq > 0 else ""
    when = ", ".join(filter(None, (first, later)))
    greedy = num_greedy(env, VALIDATION)
    played = f"{env.val.num_tasks} tasks" + (f", {greedy} of them greedily as well" if greedy else "")
    return f"{when}, {played}" if when else "none"


def _every(steps: int) -> str:
    return f"every {steps} steps and after the last" if steps > 0 else "none"


def _nearest(config: DictConfig) -> Path:
    """Return the nearest folder that is there of the place where the run's folder would be."""
    path: Any = Path(config.run.dir or config.run.root).absolute()
    while not path.is_dir():
        path = path.parent
    return Path(path)
