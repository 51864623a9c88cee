"""The weights alone of a checkpoint, as the model that a new run begins with."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trm_agent.evaluate.checkpoints.export import export
from trm_agent.evaluate.checkpoints.merging import fsdp_hash
from trm_agent.evaluate.checkpoints.model_files import check_weights
from trm_agent.evaluate.checkpoints.source import Checkpoint, model_files_folder, parse_checkpoint
from trm_agent.models.making import cache_root
from trm_agent.runs.chat import load_tokenizer
from trm_agent.runs.folder import CONFIG_FILE, saved_steps
from trm_agent.runs.model_facts import ModelFacts, read_shape
from trm_agent.runs.origin import check_shape, check_tokens
from trm_fields import refuse

_ALLOWED = "RUN@STEP, a global_step_N folder, or a Hugging Face folder"


def initial_checkpoint(field: str, source: str) -> Checkpoint:
    """Resolve the source of a run's first weights.

    Args:
        field: the field that names it.
        source: its value.

    Raises:
        ValueError: there is no such checkpoint, it is half-written, or a run is named without a step.
    """
    run = Path(source).expanduser()
    if (run / CONFIG_FILE).exists():
        steps = ", ".join(map(str, saved_steps(run))) or "none"
        because, remedy = f"a run without a step (steps with a checkpoint: {steps})", f"name one: {source}@STEP"
        refuse(field, source, _ALLOWED, remedy, because=because)
    try:
        found = parse_checkpoint(source, allowed=_ALLOWED)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from error
    if found.kind not in ("fsdp", "huggingface"):
        refuse(field, source, _ALLOWED, "give one, or set actor_rollout_ref.model.path to a model to begin with")
    return found


def suited_checkpoint(field: str, source: str, facts: ModelFacts) -> Checkpoint:
    """Resolve the source of a run's first weights, and refuse one of another model.

    Args:
        field: the field that names their checkpoint.
        source: its value.
        facts: the facts of the model that the run is about.

    Raises:
        ValueError: the checkpoint is not there, or is of another model.
    """
    checkpoint = initial_checkpoint(field, source)
    files = model_files_folder(checkpoint)
    assert files is not None, f"{checkpoint.kind} without files"
    if checkpoint.kind == "huggingface":
        check_whole(field, str(checkpoint.path))
    check_shape(field, source, read_shape(files), facts.shape)
    check_tokens(field, source, load_tokenizer(str(files)), facts.tokenizer)
    return checkpoint


def check_whole(field: str, model: str) -> None:
    """Refuse a model whose weights are cut or lack a part; a hub id is the hub's.

    Args:
        field: the field that names the model.
        model: its folder or hub id.

    Raises:
        ValueError: a file is missing or truncated.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        try:
            check_weights(folder)
        except ValueError as error:
            raise ValueError(f"{field}: {error}") from error


def initial_weights(checkpoint: Checkpoint, say: Callable[[str], Any] = print) -> Path:
    """Return a Hugging Face folder with the weights in the precision in which they were trained.

    Shards are merged once, into `initial/` in $TRM_AGENT_CACHE or in ~/.cache/trm-agent.

    Args:
        checkpoint: what `initial_checkpoint` returned.
        say: takes a line for the user if shards are merged.

    Raises:
        ValueError: the shards cannot be put together, or the disk is too small.
    """
    assert checkpoint.path is not None, f"{checkpoint.kind} without a folder"
    if checkpoint.kind == "huggingface":
        return checkpoint.path
    folder = cache_root() / "initial" / fsdp_hash(checkpoint.path)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            say(f"{checkpoint.label}: its weights are put together in {folder}, once")
            export(checkpoint, folder)
    return folder
