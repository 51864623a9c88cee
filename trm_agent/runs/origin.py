"""Where a new run begins: at a checkpoint of another run, with all of its state or with its weights alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trm_agent.runs.folder import RunFolder, checkpoint_folder
from trm_fields import OneOf, refuse

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from trm_agent.runs.model_facts import ModelFacts

RESUME_MODE, RESUME_PATH, INIT_FROM = "trainer.resume_mode", "trainer.resume_from_path", "run.init_from"
MODES = ("auto", "disable", "resume_path")
# fields of a model's configuration that decide the shapes of its weights
SHAPE = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "num_experts",
    "moe_intermediate_size",
    "tie_word_embeddings",
)
# part of verl's load_contents -> start of its files' names
_PARTS = {"model": "model", "optimizer": "optim", "extra": "extra_state"}
_STEP_FOLDER = re.compile(r"global_step_([0-9]{1,15})")


def start_step(config: DictConfig) -> int:
    """Return the step after which a new run begins: that of `trainer.resume_from_path`, else 0."""
    return step_of(config.trainer)


def step_of(trainer: Mapping[str, Any] | DictConfig) -> int:
    """Return `start_step` of a section `trainer`."""
    path = trainer.get("resume_from_path")
    if trainer.get("resume_mode") != "resume_path" or path is None:
        return 0
    found = _STEP_FOLDER.fullmatch(Path(str(path)).name)
    return int(found[1]) if found else 0


def begins(config: DictConfig) -> str:
    """Describe where a new run begins."""
    if step := start_step(config):
        return f"new run, goes on after step {step} of {config.trainer.resume_from_path}"
    return f"new run, weights of {config.run.init_from}" if config.run.init_from else "new run"


def needs_first_weights(config: DictConfig, step: int) -> bool:
    """Tell whether a session loads the weights of `run.init_from`.

    A run that is resumed needs them for the reference of its KL terms, and as the base of its adapters.

    Args:
        config: the configuration.
        step: the step after which the session goes on; 0 for the first session.
    """
    if config.run.init_from is None:
        return False
    ours = config.actor_rollout_ref
    has_reference = ours.actor.use_kl_loss or config.algorithm.use_kl_in_reward
    return bool(not step or has_reference or ours.model.get("lora_rank"))


def check_modes(config: DictConfig) -> None:
    """Refuse fields that contradict each other about where a run begins.

    Raises:
        ValueError: they do.
    """
    mode, path = config.trainer.get("resume_mode") or "auto", config.trainer.get("resume_from_path")
    OneOf(MODES).check(RESUME_MODE, mode)
    if mode != "resume_path":
        if path is not None:
            because = f"which is read with {RESUME_MODE}=resume_path alone"
            refuse(RESUME_PATH, path, "null", f"set {RESUME_MODE}=resume_path, or leave it out", because=because)
    elif config.run.init_from is not None:
        because = f"with {RESUME_MODE}=resume_path, which loads weights too"
        refuse(INIT_FROM, config.run.init_from, "one of the two", "leave one out", because=because)


def check_origin(config: DictConfig) -> None:
    """Refuse a checkpoint that a new run cannot go on from; its files are read, nothing in them is run.

    Raises:
        ValueError: it is not there, half-written, made by another number of devices, beyond the last step, holds
            programs, has tasks in play that would be lost, or counts other updates to a step.
    """
    path = config.trainer.get("resume_from_path")
    if config.trainer.get("resume_mode") != "resume_path":
        return
    folder = Path(str(path)).expanduser()
    if path is None or not _STEP_FOLDER.fullmatch(folder.name) or not (folder / "actor").is_dir():
        allowed = "a folder global_step_N of a run's checkpoints, with its actor"
        refuse(RESUME_PATH, path, allowed, "give its path", because="" if path is None else _holds(folder))
    steps = config.trainer.total_training_steps
    if steps is not None and start_step(config) >= steps:
        because = f"while the checkpoint is of step {start_step(config)}"
        refuse("trainer.total_training_steps", steps, "a later step", "raise it", because=because)
    contents = config.actor_rollout_ref.actor.checkpoint.load_contents
    parts = [part for content, part in _PARTS.items() if content in contents]
    _check_files(folder, parts, config.trainer.n_gpus_per_node * config.trainer.nnodes)
    from trm_agent.runs.preflight_async import is_asynchronous, room_in_play
    from trm_agent.runs.tasks_in_play import check_in_play

    check_in_play(RESUME_PATH, folder, plays_them=is_asynchronous(config), room=room_in_play(config))
    _check_updates(config, folder)


def check_own(folder: RunFolder) -> None:
    """Refuse to resume from files that hold programs, or without the tasks that were in play.

    Raises:
        ValueError: a file of the checkpoint holds more than tensors, or one with tasks in play is missing or damaged.
    """
    if folder.step:
        from trm_agent.runs.checkpoint_pickles import check_checkpoint
        from trm_agent.runs.tasks_in_play import check_in_play

        checkpoint = checkpoint_folder(folder.path, folder.step)
        check_checkpoint(checkpoint)
        check_in_play("run.dir", checkpoint)


def check_resumed(config: DictConfig, facts: ModelFacts) -> None:
    """Refuse a checkpoint of `trainer.resume_from_path` of another model than that of the run.

    Raises:
        ValueError: with the fields that differ.
    """
    if start_step(config):
        from trm_agent.runs.model_facts import read_shape

        source = str(config.trainer.resume_from_path)
        check_shape(RESUME_PATH, source, read_shape(Path(source).expanduser() / "actor" / "huggingface"), facts.shape)


def check_shape(field: str, value: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of a model of another shape.

    Args:
        field: the field that names the checkpoint.
        value: its value.
        theirs: the checkpoint's config.json.
        ours: the configuration of `actor_rollout_ref.model.path`.

    Raises:
        ValueError: with the fields that differ.
    """
    differ = [
        f"{name} {theirs.get(name)} there, {ours.get(name)} here"
        for name in SHAPE
        if name in theirs and name in ours and theirs[name] != ours[name]
    ]
    if differ:
        because = f"whose model has another shape ({'; '.join(differ[:4])})"
        refuse(field, value, "a checkpoint of the model at actor_rollout_ref.model.path", "give one", because=because)


def check_tokens(field: str, value: str, theirs: Any, ours: Any) -> None:
    """Refuse a checkpoint whose tokenizer or chat template is another one: its weights would read other tokens.

    Args:
        field: the field that names the checkpoint.
        value: its value.
        theirs: the checkpoint's tokenizer.
        ours: the tokenizer of `actor_rollout_ref.model.path`.

    Raises:
        ValueError: with the part that differs.
    """
    same = {
        "another vocabulary": theirs.get_vocab() == ours.get_vocab(),
        "another chat template": theirs.chat_template == ours.chat_template,
    }
    if differ := [name for name, equal in same.items() if not equal]:
        because = f"whose tokenizer has {differ[0]} than that of actor_rollout_ref.model.path"
        remedy = "set actor_rollout_ref.model.path to the checkpoint's own model, or to an export of it (trm export)"
        refuse(field, value, "a checkpoint with the model's tokenizer", remedy, because=because)


def _holds(folder: Path) -> str:
    if not folder.is_dir():
        return "which is not a folder here"
    steps = sorted(path.parent.name for path in folder.glob("**/global_step_*/actor"))
    return f"which holds {', '.join(steps[:5]) or 'no checkpoint'}"


def _check_updates(config: DictConfig, folder: Path) -> None:
    """Refuse a checkpoint of another number of updates a step, by which the schedule of the rate counts."""
    from omegaconf import OmegaConf

    from trm_agent.runs.preflight_separate import SYNC_STEP, updates_per_step
    from trm_agent.runs.tasks_in_play import settings_of_run

    actor = config.actor_rollout_ref.actor
    if "extra" not in actor.checkpoint.load_contents or not _rate_changes(actor.get("optim") or {}):
        return
    theirs = updates_per_step(settings_of_run(folder).get)
    ours = updates_per_step(lambda name: OmegaConf.select(config, name))
    if None not in (theirs, ours) and theirs != ours:
        because = f"whose run made {theirs} updates a step where this makes {ours}: the rate's schedule counts them"
        remedy = f"change {SYNC_STEP} or the mode, keep the rate constant, or give its weights alone as {INIT_FROM}"
        refuse(RESUME_PATH, str(folder), f"a checkpoint of {ours} updates a step", remedy, because=because)


def _rate_changes(optim: Mapping[str, Any]) -> bool:
    """Return True if the rate is not the same at all updates."""
    # verl takes the ratio where the number is 0 or less
    warms_up = optim.get("lr_warmup_steps", -1) > 0 or optim.get("lr_warmup_steps_ratio", 0.0) > 0
    return warms_up or optim.get("lr_scheduler_type", "constant") != "constant"


def _check_files(folder: Path, parts: list[str], devices: int) -> None:
    from trm_agent.runs.checkpoint_pickles import check_checkpoint

    for part in parts:
        names = [f"{part}_world_size_{devices}_rank_{rank}.pt" for rank in range(devices)]
        missing = [name for name in names if not (folder / "actor" / name).exists()]
        if missing:
            others = sorted(path.name for path in (folder / "actor").glob(f"{part}_world_size_*_rank_0.pt"))
            because = f"which lacks actor/{missing[0]}" + (f" and has {others[0]}" if others else "")
            allowed = f"a whole checkpoint of {devices} devices (trainer.n_gpus_per_node times trainer.nnodes)"
            remedy = f"give another, or its weights alone as {INIT_FROM}=RUN@STEP"
            refuse(RESUME_PATH, str(folder), allowed, remedy, because=because)
    try:
        check_checkpoint(folder)
    except ValueError as error:
        raise ValueError(f"{RESUME_PATH}: {error}") from error
