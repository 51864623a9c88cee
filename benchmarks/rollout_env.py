"""The workload of rollout: chains one after the other for a fixed number of turns, and a tool that takes its time.

Importing it also installs the probes (`benchmarks.rollout_probe`), since every process that plays episodes does.
"""

import time
from dataclasses import dataclass
from typing import Any

import gymnasium

from benchmarks import rollout_probe
from trm_envs.base import Step
from trm_envs.tasks.chain_math import ChainMath, ChainMathOptions

ENV_ID = "benchmark/Turns-v0"


@dataclass(frozen=True)
class TurnsOptions(ChainMathOptions):
    """Options of the workload."""

    turns: int = 8
    """Turns of an episode, whatever the model says."""
    delay_ms: float = 0.0
    """Milliseconds for which each turn waits, as for an answer over a network."""


class Turns(ChainMath):
    """ChainMath that goes on with the next chain after an answer, for exactly `turns` turns."""

    options_class = TurnsOptions

    def reset(self, **kwargs: Any) -> tuple[str, dict[str, Any]]:
        self._num_turns = 0
        return super().reset(**kwargs)

    def step(self, action: str) -> Step:
        """Wait, play the turn, and end the episode with the last: 1.0 for a call or an answer in it."""
        if self.options.delay_ms:
            time.sleep(self.options.delay_ms / 1e3)
        observation, *_, info = super().step(action)
        self._num_turns += 1
        if self._num_turns < self.options.turns:
            return observation, 0.0, False, False, info
        reward = float(not info["malformed"])
        return "", reward, True, False, {**info, "success": reward == 1.0, "numbers": {}}

    def follow_answer(self, answer: str) -> str:
        """Return the first message of another chain."""
        return self.make_task()


gymnasium.register(ENV_ID, entry_point=Turns, disable_env_checker=True)
rollout_probe.install()
