"""Rules of `trm_agent.runs.preflight` on rollout servers with devices of their own (`separate_async`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trm_agent.runs.rollout_pool import MODE, POOL_DEVICES, POOL_NODES, SEPARATE
from trm_agent.runs.stored_config import flatten
from trm_agent.runs.verl_fates import verl_fields
from trm_fields import ABOVE_0, refuse

_SECTION = f"trainer.v1.{SEPARATE}"
SYNC_STEP = f"{_SECTION}.parameter_sync_step"
HYBRID = "actor_rollout_ref.hybrid_engine"
_TRANSFER = "actor_rollout_ref.rollout.checkpoint_engine"
BACKEND, OPTIONS = f"{_TRANSFER}.backend", f"{_TRANSFER}.engine_kwargs"
NAIVE, TCP = "naive", "tcp"
TIMEOUT = f"{OPTIONS}.{TCP}.timeout_s"
# fields that this mode alone reads
OWN = (f"{_SECTION}.num_warmup_batches", SYNC_STEP, HYBRID, POOL_NODES, POOL_DEVICES)


def unread(config: DictConfig) -> None:
    """Refuse, in another mode, what only rollout servers with devices of their own have."""
    mode, because = OmegaConf.select(config, MODE), "but only rollout servers with devices of their own have it"
    remedy = f"leave it out, or set {MODE}={SEPARATE} (docs/asynchronous.md)"
    for field in OWN:
        value, default = OmegaConf.select(config, field), _default(config, field)
        if value != default:
            refuse(field, value, str(default).lower(), f"{remedy}", because=f"{because}, and not {mode}")
    if (backend := OmegaConf.select(config, BACKEND)) != NAIVE:
        refuse(BACKEND, backend, NAIVE, remedy, because=f"{because}, and not {mode}")
    for field, value in _options(config).items():
        refuse(field, value, "no option", remedy, because=f"{because}, and not {mode}")


def separate(config: DictConfig) -> None:
    """Refuse a pool without devices, steps that do not divide, and ways of handing over weights that cannot work."""
    _pool(config)
    _updates(config)
    _transfer(config)
    _trainer(config)


def updates_per_step(setting: Callable[[str], Any]) -> int | None:
    """Return how many updates, each with its place in the schedule of the rate, a step has; None if nothing tells.

    Args:
        setting: returns a run's setting, by its dotted name; None for none.
    """
    mode = setting(MODE)
    if mode == SEPARATE:
        return setting(SYNC_STEP)
    return None if mode is None else 1


def _options(config: DictConfig) -> dict[str, Any]:
    """Return the options of all ways of handing over weights: field -> value."""
    options = OmegaConf.to_container(OmegaConf.select(config, OPTIONS) or OmegaConf.create(), resolve=True)
    return {field: value for field, value in flatten(options, OPTIONS).items() if value != {}}


def _default(config: DictConfig, field: str) -> Any:
    default = verl_fields()["fields"][field][1]
    # of the trainer's devices
    return config.trainer.n_gpus_per_node if field == POOL_DEVICES else default


def _pool(config: DictConfig) -> None:
    rollout = config.actor_rollout_ref.rollout
    for field, value in ((POOL_NODES, rollout.nnodes), (POOL_DEVICES, rollout.n_gpus_per_node)):
        if type(value) is not int or value < 1:
            refuse(field, value, f"1 or more with {MODE}={SEPARATE}", "set it", because="which is no pool of devices")
    devices = rollout.nnodes * rollout.n_gpus_per_node
    size = int(rollout.tensor_model_parallel_size) * int(rollout.data_parallel_size)
    if devices % size:
        because = f"which leaves engines of {size} devices without some"
        allowed = f"with {POOL_NODES}={rollout.nnodes} a multiple of {size} devices in all"
        remedy = "change it, or actor_rollout_ref.rollout.tensor_model_parallel_size"
        refuse(POOL_DEVICES, rollout.n_gpus_per_node, allowed, remedy, because=because)


def _updates(config: DictConfig) -> None:
    """Refuse a step whose updates are not its batch."""
    batch, mini = int(config.data.train_batch_size), int(config.actor_rollout_ref.actor.ppo_mini_batch_size)
    number = OmegaConf.select(config, SYNC_STEP)
    if batch != number * mini:
        refuse(
            SYNC_STEP,
            number,
            f"{batch // mini}, data.train_batch_size={batch} over actor_rollout_ref.actor.ppo_mini_batch_size={mini}",
            "change one of the three",
            because="but each update between two synchronisations is on a mini-batch of its own",
        )


def _transfer(config: DictConfig) -> None:
    backend, on_cpu = OmegaConf.select(config, BACKEND), config.hardware.kind == "cpu"
    fitting = TCP if on_cpu else f"nccl, {TCP} or another of verl's"
    if backend == NAIVE:
        because = "which hands weights over within the trainer's devices"
        refuse(BACKEND, backend, fitting, "set it to ${hardware.weight_transfer}", because=because)
    if on_cpu and backend != TCP:
        refuse(BACKEND, backend, TCP, "set it, or choose hardware=gpu", because="which needs GPUs")
    for field, value in _options(config).items():
        if not field.startswith(f"{OPTIONS}.{backend}."):
            because = f"which no run with {BACKEND}={backend} reads"
            refuse(field, value, f"options of {backend}", "leave it out", because=because)
        if field == TIMEOUT:
            ABOVE_0.check(field, value)
        elif backend == TCP:
            refuse(field, value, "timeout_s alone", "leave it out")


def _trainer(config: DictConfig) -> None:
    """Refuse what the trainer's devices would need an engine for, and what verl does not send or keep."""
    if config.actor_rollout_ref.hybrid_engine is not False:
        because = "but an engine on the trainer's devices would sample nothing"
        refuse(HYBRID, config.actor_rollout_ref.hybrid_engine, "false", "set it", because=because)
    model = config.actor_rollout_ref.model
    rank = int(model.get("lora_rank") or 0) or int(OmegaConf.select(model, "lora.rank") or 0)
    if (rank or model.get("lora_adapter_path")) and not OmegaConf.select(model, "lora.merge"):
        because = "but verl sends such servers the base model's weights alone"
        allowed = "0, or an adapter that is merged (actor_rollout_ref.model.lora.merge=true)"
        refuse("actor_rollout_ref.model.lora_rank", model.get("lora_rank"), allowed, "merge it", because=because)
    bypass = OmegaConf.select(config, "algorithm.rollout_correction.bypass_mode")
    for name in ("param_offload", "offload_policy"):
        offload = f"actor_rollout_ref.actor.fsdp_config.{name}"
        if not bypass and OmegaConf.select(config, SYNC_STEP) > 1 and OmegaConf.select(config, offload):
            because = "but the policy of the step's beginning is put aside from the device, where verl expects it"
            remedy = f"set it, or {SYNC_STEP}=1, or algorithm.rollout_correction.bypass_mode=true"
            refuse(offload, True, "false", remedy, because=because)
