"""Fill in what a configuration leaves to the model and the machine, for an engine without a GPU.

`null` means: as it suits the model and the machine. What is set stays, and is refused where it cannot work.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from trm_agent.episode import Limits
from trm_agent.models.nano_spec import PATH as NANO
from trm_agent.models.smollm2 import SHAPE, SMOLLM2
from trm_agent.runs.compose import plain
from trm_agent.runs.deadlines import least_deadlines, limits_of, with_room
from trm_agent.runs.sizing import (
    BLOCK_TOKENS,
    BUCKET_MIB,
    GIB,
    MIB,
    ModelSize,
    bucket_mib,
    cache_room,
    engine_threads,
    kv_cache_bytes,
    least_rate,
    model_size,
    seconds_per_weight,
    shape_at,
)
from trm_agent.trust_region.engine_option import effective_option
from trm_fields import refuse

CACHE_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"
GPU_RATE = 10.0
# for a model whose sizes are not known
UNKNOWN_BUCKET_MIB = 1024
BUCKET = "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes"
# deadlines of the engine, which are raised for a slow one
_DEADLINES = ("generate_timeout_s", "episode_timeout_s")
_TRAINED_BYTES = {"fp32": 4, "float32": 4, "bf16": 2, "bfloat16": 2, "fp16": 2, "float16": 2}


def shape_of(config: DictConfig) -> Mapping[str, Any]:
    """Return the configuration of a run's model, as config.json holds it; {} where it is not known yet."""
    path = str(config.actor_rollout_ref.model.path)
    if path == NANO:
        nano = config.nano
        return {
            "num_hidden_layers": nano.get("num_layers", 2),
            "num_attention_heads": nano.get("num_heads", 4),
            "num_key_value_heads": nano.get("num_kv_heads", 2),
            "head_dim": nano.get("head_dim", 32),
            "hidden_size": nano.get("hidden_size", 192),
            "intermediate_size": nano.get("mlp_size", 768),
            "vocab_size": nano.get("max_vocab_size", 1024),
            "tie_word_embeddings": True,
        }
    return SHAPE if path == SMOLLM2 else shape_at(path)


def threads_of(config: DictConfig) -> int:
    """Return the threads of the rollout engine, set or fitting."""
    given = config.hardware.engine_threads
    if given is not None:
        return int(given)
    if config.hardware.kind != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0))
    return engine_threads(model_size(shape_of(config)), cores, must_repeat=config.run.deterministic is True)


def rate_of(config: DictConfig) -> float:
    """Return the tokens per second at which the engine samples one sequence at the least, set or fitting."""
    given = config.hardware.least_tokens_per_s
    if given is not None:
        return float(given)
    if config.hardware.kind != "cpu":
        return GPU_RATE
    size = model_size(shape_of(config))
    return least_rate(size, _per_weight_s(int(config.actor_rollout_ref.rollout.max_num_seqs)) if size else 0.0)


@functools.cache
def _per_weight_s(num_sequences: int) -> float:
    return seconds_per_weight(num_sequences)


def limits_with_room(config: DictConfig) -> Limits:
    """Return the limits of an episode, with deadlines of the engine that hold its budgets of tokens.

    A deadline is raised where it and the rate are left open, and where it holds all budgets but those of tokens.
    """
    limits = limits_of(plain(config))
    if config.hardware.least_tokens_per_s is not None:
        return limits
    defaults, others = Limits(), least_deadlines(limits, limits.tool_time_s, math.inf)
    open_ones = {
        name
        for name in _DEADLINES
        if getattr(limits, name) == getattr(defaults, name) and getattr(limits, name) >= others[name]
    }
    return with_room(limits, rate_of(config), fixed=set(others) - open_ones)


def fit(config: DictConfig) -> list[str]:
    """Fill in what is left to the model and the machine.

    Nothing is left afterwards: a second call changes nothing.

    Args:
        config: a configuration that passed `preflight.check`, with the model's folder or hub id.

    Returns:
        A line for each thing that a person may want to know.

    Raises:
        ValueError: a bucket is too small for the model.
    """
    told = []
    threads, rate, limits = threads_of(config), rate_of(config), limits_with_room(config)
    if config.hardware.kind == "cpu":
        told += _fit_engine(config, threads)
    raised = {name: value for name in _DEADLINES if (value := getattr(limits, name)) != float(config.env.limits[name])}
    with open_dict(config):
        config.hardware.engine_threads, config.hardware.least_tokens_per_s = threads, rate
        config.env.limits.generate_timeout_s = limits.generate_timeout_s
        config.env.limits.episode_timeout_s = limits.episode_timeout_s
    if raised:
        shown = ", ".join(f"{name} {value:.0f} s" for name, value in raised.items())
        told.append(f"deadlines for {rate:.2g} tokens/s of a sequence at the least: {shown}")
    return told


def _fit_engine(config: DictConfig, threads: int) -> list[str]:
    """Fit threads, bucket, cache and the number of episodes in flight."""
    rollout, shape = config.actor_rollout_ref.rollout, shape_of(config)
    size = model_size(shape)
    told = []
    if config.hardware.engine_threads is None and threads > 1 and size is not None:
        told.append(f"{threads} threads of the engine for a model of {size.weights / 1e6:.0f} million weights")
    _fit_bucket(config, size)
    most = os.environ.get(CACHE_VARIABLE, "")
    tokens = int(rollout.max_model_len or rollout.prompt_length + rollout.response_length)
    block = int(effective_option(config, "block_size")[1] or BLOCK_TOKENS)
    kept = effective_option(config, "kv_cache_memory_bytes")[1]
    if kept is not None or (most and not most.isdecimal()) or most == "0":
        return told
    room = int(most) * GIB if most else cache_room(size, free_bytes())

    def need(sequences: int) -> int | None:
        return kv_cache_bytes(shape, str(rollout.dtype), sequences, tokens, block)

    sequences = int(rollout.max_num_seqs)
    whole = need(sequences)
    if whole is None or (most and whole >= room):
        return told
    while sequences > 1 and (need(sequences) or 0) > room:
        sequences -= 1
    os.environ.pop(CACHE_VARIABLE, None)  # vLLM would take the variable before the option
    with open_dict(config):
        rollout.engine_kwargs.vllm.kv_cache_memory_bytes = min(need(sequences) or room, room)
        if sequences < int(rollout.max_num_seqs):
            told.append(
                f"{sequences} episodes in play at once, not {rollout.max_num_seqs}: keys and values of {tokens} tokens "
                f"each in the {room / GIB:.1f} GiB that this machine has for them"
            )
            rollout.max_num_seqs = sequences
    return told


def _fit_bucket(config: DictConfig, size: ModelSize | None) -> None:
    """Fit the bucket in which weights go to the engine, if it is the preset's; refuse another that is too small."""
    transfer = config.actor_rollout_ref.rollout.checkpoint_engine
    number = _TRAINED_BYTES.get(str(config.actor_rollout_ref.actor.fsdp_config.get("model_dtype", "fp32")), 4)
    given = transfer.update_weights_bucket_megabytes
    if given == BUCKET_MIB:
        with open_dict(config):
            transfer.update_weights_bucket_megabytes = bucket_mib(size, number) if size else UNKNOWN_BUCKET_MIB
    elif size is not None and int(given) < (least := -(-size.largest * number // MIB)):
        because = f"in which the model's largest matrix ({size.largest / 1e6:.0f} million numbers) has no room"
        refuse(BUCKET, given, f"at least {least}", "leave it out, which makes it fit", because=because)


def free_bytes() -> int:
    """Return the bytes of memory that can be had now, of the machine's and of a container's own limit."""
    free = _meminfo("MemAvailable")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        return min(free, int(limit) - used) if limit != "max" else free
    except (OSError, ValueError):
        return free


def _meminfo(name: str) -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return GIB
