"""A second engine, which reads what the first one played: its log-probs of the same tokens in the same contexts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trm_agent.evaluate.engines.vllm_engine import VllmEngine
from trm_agent.evaluate.engines.vllm_turns import read
from trm_agent.numerics.forcing import Played
from trm_agent.numerics.rollout import engine_settings
from trm_agent.numerics.source import Source
from trm_agent.numerics.spec import SECOND_ENGINE, flag_of
from trm_fields import refuse

# vLLM holds the logits of all tokens that it reads at once and their log-softmax: 4 + 4 bytes a token and entry of the
# vocabulary, 0.6 GB for a vocabulary of 152k
PIECE = 512


def check_readable(source: Source, formats: Sequence[str]) -> None:
    """Refuse a second engine for a run whose log-probs it cannot tell.

    Raises:
        ValueError: the run samples at another temperature than 1.
    """
    temperature = float(source.config.actor_rollout_ref.rollout.temperature)
    if formats and temperature != 1.0:
        refuse(
            flag_of(SECOND_ENGINE),
            " ".join(formats),
            "a run of temperature 1, or a model",
            "trm export it and give the folder, which is measured at temperature 1, or compare with --trainer alone",
            because=f"and the run samples at {temperature:g}: vLLM's log-probs of tokens that it reads are those at 1",
        )


def reading_settings(source: Source, number_format: str, tokens: int) -> dict[str, Any]:
    """Return the arguments of vLLM's `EngineArgs` for an engine that reads: the run's, but in pieces and one at a time.

    Args:
        source: what is measured.
        number_format: of weights and cache.
        tokens: the longest episode.
    """
    return {
        # vLLM samples a token behind what it reads
        **engine_settings(source, number_format, tokens + 1, 1),
        "enable_chunked_prefill": True,
        "max_num_batched_tokens": PIECE,
        # log-probs of what is not computed again would be missing
        "enable_prefix_caching": False,
    }


async def read_all(
    engine: VllmEngine, episodes: Sequence[Played], report: Callable[[int], Any] = lambda number: None
) -> list[np.ndarray]:
    """Return the engine's log-probs of the sampled tokens of each episode, nats, float64.

    Args:
        engine: of `reading_settings`.
        episodes: as another engine sampled them.
        report: gets the number of tokens by which more has been read.

    Raises:
        RuntimeError: the engine stopped.
    """
    found = []
    for episode in episodes:
        log_probs = await read(engine, episode.ids)
        # nothing tells the first token's
        found.append(np.array(log_probs)[np.flatnonzero(episode.sampled) - 1])
        report(len(episode.ids))
    return found
