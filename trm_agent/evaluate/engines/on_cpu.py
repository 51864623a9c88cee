"""vLLM without a GPU: its variables and arguments, and the layers and threads of a run's engine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trm_agent.runs.sizing import ENGINE_BYTES, GIB, cache_room, engine_threads, kv_cache_bytes, model_size, shape_at

# variables that vLLM reads when it is imported; a value that the user has set stays
ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "KMP_BLOCKTIME": "0",
}
THREADS_VARIABLE = "OMP_NUM_THREADS"
DTYPE = "float32"
MIN_BATCHED_TOKENS = 4096
# the cache holds whole blocks: of vLLM's 128 tokens without a GPU a short episode would read all anew each turn
BLOCK_TOKENS = 32


@dataclass(frozen=True)
class Cache:
    """Room for keys and values."""

    num_bytes: int
    """What the sequences that are sampled at once can fill, or what memory has room for."""
    sequences: int
    """Sequences of full length that it holds, one at least: more would push each other out from turn to turn."""


def cache_of(folder: Path, settings: Mapping[str, Any]) -> Cache:
    """Return the cache for the model in a folder, by the rule of a run's engine.

    Args:
        folder: the model's.
        settings: of the engine; `max_model_len` and `max_num_seqs` are among them.
    """
    from trm_agent.runs.fit_cpu_engine import CACHE_VARIABLE, free_bytes

    shape, wanted = shape_at(str(folder)), int(settings["max_num_seqs"])
    given = os.environ.get(CACHE_VARIABLE, "")
    # which vLLM takes before its argument
    room = (
        int(given) * GIB
        if given.isdecimal() and int(given)
        else cache_room(model_size(shape), free_bytes(), ENGINE_BYTES)
    )
    dtype, block = settings.get("dtype") or DTYPE, settings.get("block_size") or BLOCK_TOKENS

    def needed(sequences: int) -> int | None:
        return kv_cache_bytes(shape, dtype, sequences, settings["max_model_len"], block)

    whole = needed(wanted)
    if whole is None:
        return Cache(min(GIB, room), wanted)
    fitting = (number for number in range(wanted, 1, -1) if (needed(number) or 0) <= room)
    return Cache(min(whole, room), next(fitting, 1))


def arguments(settings: Mapping[str, Any], cache: Cache) -> dict[str, Any]:
    """Return the arguments of vLLM's `EngineArgs` that a machine without a GPU asks for.

    Prompts are read in one piece: between pieces vLLM rewinds a seeded generator, which is impossible on a CPU.

    Args:
        settings: further arguments, which go before these.
        cache: room for keys and values.
    """
    return {
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(settings["max_model_len"], MIN_BATCHED_TOKENS),
        "block_size": BLOCK_TOKENS,
        "kv_cache_memory_bytes": cache.num_bytes,
    }


def patch_layers() -> None:
    """Patch vLLM's layers in this process as a run's engine has them, whose log-probs round otherwise without.

    vLLM's own sampling stays: with the same seeds its own server draws the same tokens.

    Raises:
        RuntimeError: another version of vLLM is installed.
    """
    from trm_agent.verl_plugin.cpu.patches import apply_layer_patches

    apply_layer_patches(weights_change=False)


def fitting_threads(folder: Path, must_repeat: bool = False) -> int:
    """Return the threads that a run's engine has for the model in a folder, on this machine."""
    return engine_threads(model_size(shape_at(str(folder))), len(os.sched_getaffinity(0)), must_repeat)


def threads_of(folder: Path) -> int | None:
    """Return the threads of an engine that belongs to no run; None where the user's OMP_NUM_THREADS says it."""
    return None if THREADS_VARIABLE in os.environ else fitting_threads(folder)


def set_threads(number: int) -> None:
    """Set the threads of the operators that the calling thread runs, torch's and vLLM's."""
    import torch

    # an engine puts a function that does nothing in place of torch.set_num_threads
    torch._C.set_num_threads(number)
