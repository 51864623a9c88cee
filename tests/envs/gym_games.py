"""Plain Gymnasium games for the tests of their wrapper, and functions that show and judge them."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Sum(gymnasium.Env):
    """Reach a sum that is told, by adding 1 or 2; more than the sum loses."""

    action_space: Any = spaces.Discrete(2, start=1)
    observation_space: Any = spaces.Text(20)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[str, dict]:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(2, 50))
        return f"left {self.left}", {}

    def step(self, action: Any) -> tuple[str, float, bool, bool, dict]:
        self.left -= int(action)
        return f"left {self.left}", float(self.left == 0), self.left <= 0, False, {}


class Costly(Sum):
    """The same at 1 a step, and 10 for too much."""

    def step(self, action: Any) -> tuple[str, float, bool, bool, dict]:
        shown, _, over, _, _ = super().step(action)
        return shown, -10.0 if self.left < 0 else -1.0, over, False, {}


class Pairs(Sum):
    """The same with two numbers to add."""

    action_space = spaces.MultiDiscrete([2, 3], start=[1, 0])
    observation_space = spaces.Box(0, 100, (1,))

    def reset(self, **kwargs: Any) -> tuple[Any, dict]:
        super().reset(**kwargs)
        return np.array([self.left]), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert isinstance(action, np.ndarray)
        _, *rest = super().step(sum(action))
        return (np.array([self.left]), *rest)  # type: ignore[return-value]


class Spelling(Sum):
    """The same with words."""

    action_space = spaces.Text(3, charset="onetw")

    def step(self, action: Any) -> tuple[str, float, bool, bool, dict]:
        return super().step(["", "one", "two"].index(action))


class Breaks(Sum):
    """Raises on 2, after it has changed."""

    def step(self, action: Any) -> tuple[str, float, bool, bool, dict]:
        outcome = super().step(action)
        if action == 2:
            raise OSError("the board fell from the table")
        return outcome


class PaysNothingFinite(Sum):
    def step(self, action: Any) -> tuple[str, float, bool, bool, dict]:
        shown, _, over, _, info = super().step(action)
        return shown, float("nan"), over, False, info


class ShowsNoText(Sum):
    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        return (None, *super().step(action)[1:])  # type: ignore[return-value]


class Hidden(Sum):
    """The sum is not told."""

    def reset(self, **kwargs: Any) -> tuple[str, dict]:
        super().reset(**kwargs)
        return "guess", {}


KINDS = (Sum, Costly, Pairs, Spelling, Breaks, PaysNothingFinite, ShowsNoText, Hidden)
for kind in KINDS:
    gymnasium.register(f"games/{kind.__name__}-v0", kind, reward_threshold=1.0, max_episode_steps=60)


def show(observation: Any) -> str:
    return f"{int(observation[0])} are left"


def hidden(game: Any) -> str:
    return str(game.unwrapped.left)


def left_of(game: Any) -> int:
    return int(game.unwrapped.left)


def is_exact(total: float, truncated: bool, game: Any) -> bool:
    return left_of(game) == 0


def survived(total: float, truncated: bool, game: Any) -> bool:
    return truncated
