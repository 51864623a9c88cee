"""ChainMath whose tool takes its time. Registered as `benchmark/TimedChainMath-v0`, for both sides of `peers`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium

from trm_envs.tasks.chain_math import ChainMath, ChainMathOptions
from trm_envs.tools import ToolResult

ENV_ID = "benchmark/TimedChainMath-v0"


@dataclass(frozen=True)
class TimedOptions(ChainMathOptions):
    """Options of ChainMath, and the seconds of a call."""

    tool_s: float = 0.0
    """Seconds that each call sleeps, as one that waits for a service would."""


class TimedChainMath(ChainMath):
    """ChainMath with a tool that waits."""

    options_class = TimedOptions

    def follow_up(self, results: Sequence[ToolResult]) -> str:
        if self.options.tool_s:
            time.sleep(self.options.tool_s * len(results))
        return super().follow_up(results)


gymnasium.register(ENV_ID, entry_point=TimedChainMath, disable_env_checker=True)
