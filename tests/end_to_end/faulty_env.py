"""A fake for tests, `faulty/ChainMath-v0`: ChainMath that raises or hangs at given rates, or always at a horizon."""

import time
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from trm_envs import InfrastructureError
from trm_envs.tasks.chain_math import ChainMath


class FaultyChainMath(ChainMath):
    """ChainMath that fails like infrastructure does: independently of the task's seed.

    Args:
        raise_rate, hang_rate: shares of the steps that raise and that never return.
        unplayable: horizons at which every step raises.
        **kwargs: as for ChainMath.
    """

    def __init__(
        self, raise_rate: float = 0.0, hang_rate: float = 0.0, unplayable: Sequence[int] = (), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.raise_rate, self.hang_rate, self.unplayable = raise_rate, hang_rate, tuple(unplayable)
        self.faults = np.random.default_rng()

    def step(self, action: str) -> tuple:
        draw = self.faults.random()
        if draw < self.raise_rate or self.options.horizon in self.unplayable:
            raise InfrastructureError("the disk of this fake environment is full")
        if draw < self.raise_rate + self.hang_rate:
            time.sleep(3600)
        return super().step(action)


gymnasium.register("faulty/ChainMath-v0", entry_point=FaultyChainMath, disable_env_checker=True)
