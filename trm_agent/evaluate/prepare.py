"""Prepare a plan: make or merge its models, with a line for each, and fit its settings to them.

Nothing else of an evaluation makes a model or merges shards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from trm_agent.evaluate.checkpoints.merging import merge_target, merged_folder
from trm_agent.evaluate.checkpoints.model_files import world_size
from trm_agent.evaluate.checkpoints.source import NANO, Checkpoint, tokenizer_folder
from trm_agent.evaluate.checks import fitted
from trm_agent.evaluate.plan import Plan
from trm_agent.models.nano import ensure_nano_model, is_made, nano_folder
from trm_agent.models.nano_spec import NanoSpec
from trm_agent.models.smollm2 import SMOLLM2, ensure_smollm2

Say = Callable[[str], Any]


def prepared(plan: Plan, say: Say = print) -> Plan:
    """Return the plan with every model ready to be served, and its settings fitted to the models.

    The settings are fitted before anything is merged or made if all tokenizers are there to measure with: only a model
    by name that has yet to be made lacks one.

    Args:
        plan: one that is `checked`.
        say: takes a line for the user for each model that is merged, made or fetched.

    Raises:
        ValueError: the models cannot play the plan, merging fails, or SmolLM2 cannot be had.
        RuntimeError: the nano model's warm start does not reach its target in time.
    """
    is_early = all(tokenizer_folder(each) for each in plan.checkpoints)
    plan = fitted(plan) if is_early else plan
    plan = replace(plan, checkpoints=tuple(with_folder(each, say) for each in plan.checkpoints))
    return plan if is_early else fitted(plan)


def with_folder(checkpoint: Checkpoint, say: Say = print) -> Checkpoint:
    """Return the checkpoint with its Hugging Face folder, merged or made if the cache does not hold it."""
    if checkpoint.kind == "endpoint":
        return checkpoint
    if checkpoint.kind == NANO:
        return replace(checkpoint, folder=_nano(checkpoint.label, checkpoint.nano or NanoSpec(), say))
    if checkpoint.kind == SMOLLM2:
        folder = ensure_smollm2(say=say)
        return replace(checkpoint, path=folder, folder=folder)
    assert checkpoint.path is not None, f"{checkpoint.kind} without a folder"
    if checkpoint.kind == "fsdp":
        return replace(checkpoint, folder=_merged(checkpoint.label, checkpoint.path, say))
    return replace(checkpoint, folder=checkpoint.path)


def _nano(label: str, spec: NanoSpec, say: Say) -> Path:
    folder = nano_folder(spec)
    if not is_made(folder):
        say(f"{label}: making the nano model of {spec.env_id} in {folder}, once; a minute or two on a CPU")
    return ensure_nano_model(spec)


def _merged(label: str, actor: Path, say: Say) -> Path:
    folder = merge_target(actor)
    if not folder.exists():
        say(f"{label}: merging {world_size(actor)} shards of {actor} into {folder}, once")
    return merged_folder(actor)
