"""The options of a wrapped game."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from trm_envs.options import EnvOptions
from trm_fields import Flag, Number, OneOf, refuse

SUCCESS, GAME = "success", "game"
OBSERVATION, SEED = "observation", "seed"
Function = str | Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class GymOptions(EnvOptions):
    """Options of `GymTool`. A function is given itself, or as text "module:function".

    Raises:
        ValueError: if a value is not allowed.
    """

    one_horizon: ClassVar[bool] = True
    """A game is one task whatever the horizon, so that the only one is 1."""
    horizon: int = 1
    """Always 1."""
    env_id: str = ""
    """Gymnasium id of the game, after "module:" if that module registers it."""
    env_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of `gymnasium.make` for the game, such as `max_episode_steps`."""
    to_text: Function = ""
    """Function of the observation, or of the observation and the game, that returns its text; "" if the game renders
    text (`render_mode="ansi"`) or its observations are text."""
    actions: Sequence[str] = ()
    """Names of the actions 0, 1, ... of a `Discrete` space, by which the model calls them; () for the numbers."""
    rules: str = ""
    """The system prompt's words on the game."""
    success_at: float | None = None
    """Least return of the game that is a success, if it ended by itself; null for its `reward_threshold`."""
    success: Function = ""
    """Function of (return, truncated, game) that returns True for a success, instead of `success_at`."""
    rewards: str = SUCCESS
    """ "success": 1 for a success, at the end, and else 0; "game": the game's own rewards, step by step."""
    unfinished_reward: float | None = None
    """With `rewards="game"`: the largest return of an episode that the game did not end itself."""
    task: Function = OBSERVATION
    """Identity of a task, which decides its split: "observation", the one that `reset` returns; "seed", if the seed
    draws something hidden and no two seeds draw the same; or a function of the game that returns a text."""
    one_task: bool = False
    """True for a game that always begins alike: it is trained and validated on, and results are not held out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.horizon != 1:
            refuse("horizon", self.horizon, "1, since a game has no steps that depend on it", "set the horizons to [1]")
        if not isinstance(self.env_id, str):
            refuse("env_id", self.env_id, "the Gymnasium id of a game", "give it, such as env_id=FrozenLake-v1")
        OneOf((SUCCESS, GAME)).check("rewards", self.rewards)
        Flag().check("one_task", self.one_task)
        for name in ("success_at", "unfinished_reward"):
            if getattr(self, name) is not None:
                Number().check(name, getattr(self, name), "give a number, such as 1.0")
        if (self.rewards == GAME) != (self.unfinished_reward is not None):
            refuse(
                "unfinished_reward",
                self.unfinished_reward,
                f'a number with rewards="{GAME}", and null with rewards="{SUCCESS}"',
                "give the worst return of a finished game, or a lower one: a policy that loses rewards by playing "
                "would else do best by never finishing",
                because=f'with rewards="{self.rewards}"',
            )


PER_EPISODE = frozenset(field.name for field in dataclasses.fields(EnvOptions))
"""Options that `reset` may change."""
