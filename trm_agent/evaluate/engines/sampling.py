"""The sampling of an evaluation's tokens, and the seeds that decide them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from trm_fields import LEAST_0, SHARE, Number, check_settings, setting


@dataclass(frozen=True)
class Sampling:
    """The sampling of tokens.

    Raises:
        ValueError: a value is not allowed.
    """

    temperature: float = setting(
        1.0,
        Number("of 0 or more", lambda value: value >= 0),
        "Temperature; 0 takes the most likely token.",
    )
    top_p: float = setting(
        1.0, SHARE, "Share of the probability that is sampled from, the most likely tokens first; 1: all of it."
    )
    seed: int = setting(0, LEAST_0, "Base of the seeds of all random choices.")

    def __post_init__(self) -> None:
        check_settings(self, "")


def turn_seed(base_seed: int, episode_seed: int, turn: int) -> int:
    """Derive one turn's seed: 62 bits of a hash of the sampling's seed, the episode's and the turn's number."""
    return int(np.random.SeedSequence([base_seed, episode_seed, turn]).generate_state(1, np.uint64)[0]) >> 2


class SeededTurns:
    """The turns of one episode, each completed with its own seed.

    Args:
        engine: an engine with `sampling` and `complete(prompt_ids, max_tokens, seed)`.
        seed: the episode's.
    """

    def __init__(self, engine: Any, seed: int) -> None:
        self._engine, self._seed, self._num_turns = engine, seed, 0

    async def complete(self, prompt_ids: list[int], max_tokens: int) -> Any:
        """Return the completion of the next turn; a repeat after a failure or a cancellation has the same seed."""
        seed = turn_seed(self._engine.sampling.seed, self._seed, self._num_turns)
        completion = await self._engine.complete(prompt_ids, max_tokens, seed)
        self._num_turns += 1
        return completion
