"""The workload of step_time: ChainMath that ends after the first turn. Registered as `benchmark/SingleTurn-v0`."""

from typing import Any

import gymnasium

from trm_envs.tasks.chain_math import ChainMath


def reward_of(turn: str) -> float:
    """1.0 for a turn that calls a tool, else 0.0: as cheap as a reward can be, and the same for both sides."""
    return float("</tool_call>" in turn)


class SingleTurnChainMath(ChainMath):
    """ChainMath's first turn."""

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        *_, info = super().step(action)
        reward = reward_of(action)
        return "", reward, True, False, {**info, "success": reward == 1.0}


gymnasium.register("benchmark/SingleTurn-v0", entry_point=SingleTurnChainMath, disable_env_checker=True)
