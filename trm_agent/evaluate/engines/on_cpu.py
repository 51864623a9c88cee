"""vLLM without a GPU: its variables and arguments, and the layers and threads of a run's engine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trm_agent.runs.sizing import GIB, cache_room, engine_threads, kv_cache_bytes, model_size, shape_at

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


def arguments(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of vLLM's `EngineArgs` that a machine without a GPU asks for.

    Prompts are read in one piece: between pieces vLLM rewinds a seeded generator, which is impossible on a CPU. The
    cache holds as many sequences as are sampled at once, or what memory has room for.

    Args:
        folder: the model's.
        settings: further arguments, which go before these; `max_model_len` and `max_num_seqs` are among them.
    """
    return {
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(settings["max_model_len"], MIN_BATCHED_TOKENS),
        "block_size": BLOCK_TOKENS,
        # vLLM takes the user's VLLM_CPU_KVCACHE_SPACE before it
        "kv_cache_memory_bytes": _cache_bytes(shape_at(str(folder)), settings),
    }


def _cache_bytes(shape: Mapping[str, Any], settings: Mapping[str, Any]) -> int:
    from trm_agent.runs.fit_cpu_engine import free_bytes

    needed = kv_cache_bytes(
        shape,
        settings.get("dtype") or DTYPE,
        settings["max_num_seqs"],
        settings["max_model_len"],
        settings.get("block_size") or BLOCK_TOKENS,
    )
    return min(needed or GIB, cache_room(model_size(shape), free_bytes()))


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
