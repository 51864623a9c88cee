"""Fit a composed configuration to its devices: what the user has not set of the memory's knobs is computed."""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from trm_agent.runs.planning import machine
from trm_agent.runs.planning.activations import entropy_bytes
from trm_agent.runs.planning.choose import FULL_TOKENS, Aims, Place, Plan, choose, plan_of
from trm_agent.runs.planning.hub import cached_folder, unreachable
from trm_agent.runs.planning.layout import BFLOAT16, FLOAT32, Layout
from trm_agent.runs.planning.loops import WORKERS, workers_needed
from trm_agent.runs.planning.machine import GIB, MIB
from trm_agent.runs.planning.read_fields import check_read
from trm_agent.runs.planning.shapes import ModelShape, shape_of

if TYPE_CHECKING:
    from omegaconf import DictConfig

MEMORY = "hardware.gpu_memory_gib"
# of a device for which a configuration is composed elsewhere
ELSEWHERE_GIB = 80
_ACTOR, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
_FSDP, _MODEL = f"{_ACTOR}.fsdp_config", "actor_rollout_ref.model"
# knob of the layout -> verl's field
KNOBS = {
    "ulysses": f"{_FSDP}.ulysses_sequence_parallel_size",
    "checkpointing": f"{_MODEL}.enable_gradient_checkpointing",
    "param_offload": f"{_FSDP}.param_offload",
    "optimizer_offload": f"{_FSDP}.optimizer_offload",
    "offload_policy": f"{_FSDP}.offload_policy",
    "tensor_parallel": f"{_ROLLOUT}.tensor_model_parallel_size",
    "engine_share": f"{_ROLLOUT}.gpu_memory_utilization",
    "micro_tokens": f"{_ACTOR}.ppo_max_token_len_per_gpu",
}
LENGTH, CONTEXT = "data.max_response_length", f"{_ROLLOUT}.max_model_len"
COMPUTED = (*KNOBS.values(), CONTEXT, WORKERS, f"{_ROLLOUT}.log_prob_max_token_len_per_gpu")
_TRAINERS = ("fsdp", "fsdp2")
_WIDTHS = {"fp32": FLOAT32, "float32": FLOAT32, "float": FLOAT32, "32": FLOAT32}


def fit(config: DictConfig, given: Collection[str]) -> None:
    """Set the memory's knobs of a configuration for GPUs, and its workers, but for those that the user has set.

    Args:
        config: a composed configuration with `hardware.kind=gpu`; it is changed.
        given: fields that the user has set.

    Raises:
        ValueError: a field that is read here has a value that is not allowed.
    """
    from omegaconf import open_dict

    check_read(config)
    with open_dict(config):
        config.hardware.gpu_memory_gib = memory_gib(config)
        _set(config, {WORKERS: workers_needed(config)}, given)
        if not is_planned(config):
            return
        shape = shape_of_run(config)
        if shape is None:
            _set(config, _without_plan(config), given)
            return
        plan = choose(shape, place_of(config), aims_of(config, given))
        shorter = plan.longest - int(config.data.max_prompt_length)
        if not plan.fits and LENGTH not in given and 0 < shorter < int(config.data.max_response_length):
            config.data.max_response_length = shorter
            plan = choose(shape, plan.place, aims_of(config, given))
        _set(config, values_of(config, plan), given)


def is_planned(config: DictConfig) -> bool:
    """Return True if the memory model is of a run's trainer and engine: FSDP and vLLM."""
    return config.actor_rollout_ref.actor.strategy in _TRAINERS and config.actor_rollout_ref.rollout.name == "vllm"


def _without_plan(config: DictConfig) -> dict[str, Any]:
    """Return the fields for a model of unknown shape: what any model trains with, if it fits at all."""
    tokens = int(config.data.max_prompt_length) + int(config.data.max_response_length)
    values = {KNOBS["tensor_parallel"]: 1, KNOBS["checkpointing"]: True}
    if config.actor_rollout_ref.actor.use_dynamic_bsz:
        values[KNOBS["micro_tokens"]] = max(tokens, FULL_TOKENS)
    return values | _context(config)


def _context(config: DictConfig) -> dict[str, Any]:
    """Return the engine's context where the preset leaves it open."""
    if config.actor_rollout_ref.rollout.max_model_len is not None:
        return {}
    return {CONTEXT: int(config.data.max_prompt_length) + int(config.data.max_response_length)}


def plan_of_run(config: DictConfig, shape: ModelShape) -> Plan:
    """Return what comes of a composed configuration as it stands."""
    aims = aims_of(config, KNOBS.values())
    return plan_of(shape, place_of(config), aims, aims.layout)


def values_of(config: DictConfig, plan: Plan) -> dict[str, Any]:
    """Return verl's fields as a plan has them."""
    values = {KNOBS[name]: value for name, value in vars(plan.layout).items() if name in KNOBS}
    if config.actor_rollout_ref.actor.use_dynamic_bsz:
        values[KNOBS["micro_tokens"]] = plan.micro_tokens
    else:
        del values[KNOBS["ulysses"]]
    return values | _context(config)


def place_of(config: DictConfig) -> Place:
    """Return the devices of a configuration."""
    trainer = config.trainer
    return Place(int(trainer.n_gpus_per_node), int(trainer.nnodes), memory_gib(config) * GIB)


def memory_gib(config: DictConfig) -> int:
    """Return the whole GiB of each device: as set, else of this machine's smallest one, else `ELSEWHERE_GIB`."""
    given = config.hardware.gpu_memory_gib
    if given is not None:
        return int(given)
    if os.environ.get("RAY_ADDRESS"):
        return ELSEWHERE_GIB
    gpus, _ = machine.read_gpus()
    return min((gpu.gib for gpu in gpus), default=ELSEWHERE_GIB)


def aims_of(config: DictConfig, given: Collection[str]) -> Aims:
    """Return what a configuration asks of the memory."""
    from omegaconf import OmegaConf

    actor = config.actor_rollout_ref.actor
    fixed = {name: OmegaConf.select(config, path) for name, path in KNOBS.items() if path in given}
    tokens = int(config.data.max_prompt_length) + int(config.data.max_response_length)
    if ulysses_of(config) > 1:
        fixed["ulysses"] = ulysses_of(config)
    if not actor.use_dynamic_bsz:
        fixed["micro_tokens"] = tokens * int(actor.ppo_micro_batch_size_per_gpu or 1)
        fixed.setdefault("ulysses", 1)
    return Aims(tokens, layout_of(config), fixed)


def layout_of(config: DictConfig) -> Layout:
    """Return a configuration's layout: for GPUs before it is fitted, the parts that are no choice."""
    from omegaconf import OmegaConf

    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    loss, on_cuda = actor.policy_loss, config.hardware.kind != "cpu"
    precision = OmegaConf.select(config, f"{_FSDP}.mixed_precision.param_dtype") or "bf16"
    read = {name: OmegaConf.select(config, path) for name, path in KNOBS.items() if name != "micro_tokens"}
    width = _WIDTHS.get(str(precision), BFLOAT16)
    # that of a replayed rollout is taken on its kept set, of which a token has a few entries
    is_replayed = loss.loss_mode == "trm" and loss.trm.estimator == "replayed"
    has_entropy = bool(actor.get("calculate_entropy") or actor.get("entropy_coeff")) and not is_replayed
    compiled = on_cuda and bool(OmegaConf.select(config, f"{_FSDP}.use_torch_compile"))
    devices = int(config.trainer.n_gpus_per_node) * int(config.trainer.nnodes)
    sharded = int(OmegaConf.select(config, f"{_FSDP}.fsdp_size") or -1)
    return Layout(
        devices=sharded if 0 < sharded < devices else devices,
        stored=_WIDTHS.get(str(OmegaConf.select(config, f"{_FSDP}.model_dtype") or "fp32"), BFLOAT16),
        adapter=int(config.actor_rollout_ref.model.get("lora_rank") or 0) > 0,
        width=width,
        engine_width=_WIDTHS.get(str(rollout.dtype), BFLOAT16),
        batched_tokens=int(rollout.max_num_batched_tokens),
        sequences=int(rollout.max_num_seqs),
        bucket=int(rollout.checkpoint_engine.update_weights_bucket_megabytes or 2048) * MIB,
        exact=loss.loss_mode == "trm" and loss.trm.estimator == "exact",
        entropy_bytes=entropy_bytes(width, compiled) if has_entropy else 0,
        fused=on_cuda and bool(config.actor_rollout_ref.model.get("use_fused_kernels")),
        by_sequence=not on_cuda,
        on_cuda=on_cuda,
        **read,
    )


def ulysses_of(config: DictConfig) -> int:
    """Return the devices that share a sequence; verl lets the actor's older field overrule the engine's."""
    actor = config.actor_rollout_ref.actor
    older = int(actor.get("ulysses_sequence_parallel_size") or 1)
    return older if older > 1 else int(actor.fsdp_config.ulysses_sequence_parallel_size or 1)


def shape_of_run(config: DictConfig) -> ModelShape | None:
    """Return the shape of a run's model, of a nano model before it is made; None where it is not known here."""
    from trm_agent.models.nano_spec import PATH, NanoSpec

    path = str(config.actor_rollout_ref.model.path)
    if path != PATH:
        return shape_of(path) or (shape_of(path) if _is_fetched(path) else None)
    spec = NanoSpec(**_plain(config.nano))
    return ModelShape(
        "the nano model",
        spec.num_layers,
        spec.hidden_size,
        spec.num_heads,
        spec.num_kv_heads,
        spec.head_dim,
        spec.mlp_size,
        spec.max_vocab_size,
        True,
        True,
        None,
    )


@functools.cache
def _is_fetched(path: str) -> bool:
    """Fetch the config.json of a hub id, so that the first command plans as the next one will; False if it cannot be.

    A folder is no hub id, and the run itself says what is wrong with either.
    """
    if path.count("/") != 1 or Path(path).expanduser().exists() or cached_folder(path, weights=False) or unreachable():
        return False
    from transformers.utils import cached_file

    try:
        return cached_file(path, "config.json") is not None
    except Exception:  # gated, or no such model: the run will say so
        return False


def _plain(node: DictConfig) -> dict[str, Any]:
    from omegaconf import OmegaConf

    return cast("dict[str, Any]", OmegaConf.to_container(node, resolve=True))


def _set(config: DictConfig, values: Mapping[str, Any], given: Collection[str]) -> None:
    from omegaconf import OmegaConf

    for path, value in values.items():
        if path not in given:
            OmegaConf.update(config, path, value, force_add=True)
