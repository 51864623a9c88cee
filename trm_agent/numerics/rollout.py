"""The rollout engine of a run: vLLM with the run's options, in this process instead of a server's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from trm_agent.episode import ChatSettings
from trm_agent.evaluate.engines.on_cpu import fitting_threads
from trm_agent.evaluate.engines.sampling import Sampling
from trm_agent.evaluate.engines.vllm_engine import VllmEngine, open_vllm
from trm_agent.numerics.source import CPU, Source

# options of the server and of its processes, which change no number
_NOT_HERE = ("worker_extension_cls", "distributed_executor_backend")
# room for the run's own episodes: on a CPU `open_vllm` makes room for those that are measured
_CACHE = "kv_cache_memory_bytes"
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
    given = (rollout.get("engine_kwargs") or {}).get("vllm") or {}
    # of two spellings that with dashes, which sorts before, decides: see `effective_option`
    names_given = sorted((name for name in given if given[name] is not None), key=str, reverse=True)
    options = {str(name).replace("-", "_"): given[name] for name in names_given}
    left_out = (*_NOT_HERE, _CACHE) if _kind(source) == CPU else _NOT_HERE
    return {
        **{name: rollout[name] for name in names if rollout.get(name) is not None},
        "tensor_parallel_size": rollout.tensor_model_parallel_size,
        **{name: value for name, value in options.items() if name not in left_out},
        "dtype": number_format,
        "max_model_len": tokens,
        "max_num_seqs": episodes,
    }


def engine_threads(source: Source) -> int | None:
    """Return the threads of the run's engine on this machine; None on a GPU."""
    from omegaconf import OmegaConf

    if _kind(source) != CPU:
        return None
    # runs from before it was a setting have neither
    given = OmegaConf.select(source.config, "hardware.engine_threads")
    must_repeat = OmegaConf.select(source.config, "run.deterministic") is True
    return fitting_threads(source.folder, must_repeat) if given is None else int(given)


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
    threads = engine_threads(source)
    async with open_vllm(source.folder, tokenizer, sampling, settings, log_file, chat, threads) as engine:
        yield engine


def _kind(source: Source) -> str:
    return str(source.config.hardware.kind)
