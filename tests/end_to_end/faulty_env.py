"""A fake for tests: ChainMath whose steps raise or hang at given rates. Registered as `faulty/ChainMath-v0`."""

import time
from typing import Any

import gymnasium
import numpy as np

from trm_envs.tasks.chain_math import ChainMath


class FaultyChainMath(ChainMath):
    """ChainMath that fails like infrastructure does: independently of the task's seed."""

    def __init__(self, raise_rate: float = 0.0, hang_rate: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.raise_rate, self.hang_rate = raise_rate, hang_rate
        self.faults = np.random.default_rng()

    def step(self, action: str) -> tuple:
        draw = self.faults.random()
        if draw < self.raise_rate:
            raise OSError("the disk of this fake environment is full")
        if draw < self.raise_rate + self.hang_rate:
            time.sleep(3600)
        return super().step(action)


gymnasium.register("faulty/ChainMath-v0", entry_point=FaultyChainMath, disable_env_checker=True)
