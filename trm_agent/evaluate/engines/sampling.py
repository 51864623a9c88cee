"""The sampling of an evaluation's tokens, and the seeds that decide them."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Sampling:
    """The sampling of tokens.

    Raises:
        ValueError: a value is not allowed.
    """

    temperature: float = 1.0
    """Temperature; 0 takes the most likely token."""
    top_p: float = 1.0
    """Share of the probability that is sampled from, the most likely tokens first."""
    seed: int = 0
    """Base of the seeds of all random choices."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0.0):
            raise ValueError(f"temperature = {self.temperature}: expected at least 0; 0 takes the most likely token")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p = {self.top_p}: expected more than 0 and at most 1; 1 samples from all tokens")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"seed = {self.seed!r}: expected a whole number of at least 0, such as 0")


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
