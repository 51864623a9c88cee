"""The rollout engine of a run: vLLM with the run's options, in this process instead of a server's."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from trm_agent.episode import ChatSettings
from trm_agent.evaluate.engines.quiet import output_to
from trm_agent.evaluate.engines.sampling import Sampling
from trm_agent.evaluate.engines.vllm_engine import CPU_ENVIRONMENT, ENVIRONMENT, VllmEngine, open_vllm
from trm_agent.numerics.source import CPU, Source
from trm_agent.runs.sizing import GIB, kv_cache_bytes, shape_at

CACHE_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"
# options of the server and of its processes, which change no number
_NOT_HERE = ("worker_extension_cls", "distributed_executor_backend")
# verl's own fields of the engine that vLLM's arguments have the names of
_SHARED = ("enable_prefix_caching", "enforce_eager", "gpu_memory_utilization")
# without a GPU `open_vllm` reads a prompt in one piece
_OF_GPU = ("enable_chunked_prefill", "max_num_batched_tokens")


def engine_settings(source: Source, number_format: str, tokens: int, episodes: int) -> dict[str, Any]:
    """Return the arguments of vLLM's `EngineArgs` that the run's configuration decides.

    Args:
        source: what is measured.
        number_format: of weights and cache.
        tokens: the longest context.
        episodes: sequences at once.
    """
    rollout = source.config.actor_rollout_ref.rollout
    names = _SHARED if _kind(source) == CPU else (*_SHARED, *_OF_GPU)
    options = (rollout.get("engine_kwargs") or {}).get("vllm") or {}
    return {
        **{name: rollout[name] for name in names if rollout.get(name) is not None},
        "tensor_parallel_size": rollout.tensor_model_parallel_size,
        **{name: value for name, value in options.items() if value is not None and name not in _NOT_HERE},
        "dtype": number_format,
        "max_model_len": tokens,
        "max_num_seqs": episodes,
    }


@asynccontextmanager
async def open_rollout(
    source: Source, tokenizer: Any, chat: ChatSettings, sampling: Sampling, settings: dict[str, Any], log_file: Path
) -> AsyncIterator[VllmEngine]:
    """Start the engine and end it, whatever happens in between.

    Args:
        source: what is measured.
        tokenizer: the model's.
        chat: how the model's chat template is used.
        sampling: how tokens are drawn.
        settings: of `engine_settings`.
        log_file: the file to which the engine's output is appended.

    Raises:
        RuntimeError: vLLM does not start.
    """
    if _kind(source) == CPU:
        _prepare_cpu(source, settings, log_file)
    async with open_vllm(source.folder, tokenizer, sampling, settings, log_file, chat) as engine:
        yield engine


def _prepare_cpu(source: Source, settings: dict[str, Any], log_file: Path) -> None:
    """Make room for all keys and values, and patch vLLM's layers as a run's engine does: they round otherwise."""
    # of the wider format, since both engines of this process have the same room
    needed = kv_cache_bytes(
        shape_at(str(source.folder)), "float32", settings["max_num_seqs"], settings["max_model_len"]
    )
    if needed is not None:
        os.environ.setdefault(CACHE_VARIABLE, str(-(-needed // GIB)))
    # before vLLM is imported, as `open_vllm` would
    for name, value in {**ENVIRONMENT, **CPU_ENVIRONMENT}.items():
        os.environ.setdefault(name, value)
    with output_to(log_file):
        from trm_agent.verl_plugin.cpu.patches import apply_vllm_patches

        apply_vllm_patches()


def _kind(source: Source) -> str:
    return str(source.config.hardware.kind)
