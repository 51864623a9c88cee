"""Conversations of an environment's own solver, from which the nano model's tokenizer and warm start learn."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium

import trm_envs
from trm_envs.own_modules import import_module

MOST_LOST = 100
LATER_SEEDS = 1_000_003


@dataclass(frozen=True)
class Trace:
    """One solved episode as chat messages."""

    messages: list[dict[str, str]]
    """`{"role", "content"}` in order: system (if there is a prompt), user, then assistant and tool in turn."""
    tools: list[dict[str, Any]]
    """OpenAI function schemas."""
    horizon: int
    """The task's number of steps."""


class NoSolver(NotImplementedError, ValueError):
    """An environment without a scripted solver, of which no nano model can be made."""


class Solver:
    """A player of one environment's tasks by its scripted solver.

    Args:
        env_id: a Gymnasium id of a `trm_envs.ToolEnv`.
        split: the split of the tasks.
        module: a module to import first, because it registers the id; None for none.
        kwargs: further arguments of `gymnasium.make`.
    """

    def __init__(
        self, env_id: str, split: str, module: str | None = None, kwargs: Mapping[str, Any] | None = None
    ) -> None:
        if module:
            import_module(module)
        env = gymnasium.make(env_id, split=split, **(kwargs or {})).unwrapped
        if not isinstance(env, trm_envs.ToolEnv):
            raise ValueError(f"env_id = {env_id}: expected a trm_envs.ToolEnv; one of {trm_envs.registered_ids()}")
        self.env, self.env_id = env, env_id

    def solve(self, seed: int, horizon: int) -> Trace:
        """Return the solved episode of one seed.

        An environment with one horizon is played at that. In a game of chance, whose tasks may have no winner, the next
        task that has one is taken.

        Raises:
            RuntimeError: if the solver does not succeed.
            NoSolver: if the environment has no solver.
        """
        if getattr(self.env.options, "one_horizon", False):
            horizon = self.env.options.horizon
        first, action = self._first(seed, horizon)
        messages = [{"role": "system", "content": self.env.system_prompt}] if self.env.system_prompt else []
        messages.append({"role": "user", "content": first})
        while True:
            observation, _, terminated, truncated, info = self.env.step(action)
            messages.append({"role": "assistant", "content": action})
            if terminated or truncated:
                break
            messages.append({"role": info["role"], "content": observation})
            action = self.env.solution()
        if info.get("success") is not True:
            raise RuntimeError(f"the solver of {self.env_id} failed on seed {seed}, horizon {horizon}; mend it")
        return Trace(messages, self.env.tool_schemas, horizon)

    def _first(self, seed: int, horizon: int) -> tuple[str, str]:
        """Draw the first task from this seed on that the solver can play.

        A solver may count its turns, so that it is asked once for each.

        Returns:
            The task's first message, and the solver's first turn.
        """
        why = ""
        for number in range(MOST_LOST if getattr(self.env, "may_be_lost", False) else 1):
            first, _ = self.env.reset(seed=(seed + number * LATER_SEEDS) % 2**31, options={"horizon": horizon})
            try:
                return first, self.env.solution()
            except NotImplementedError as error:
                why = str(error) or "solution() raised NotImplementedError"
        raise NoSolver(
            f"{self.env_id} has no scripted solver for seed {seed} ({why}), which the nano model would imitate; "
            f"{_remedy(self.env)}"
        )


def _remedy(env: trm_envs.ToolEnv) -> str:
    """Return the ways to a model of an environment without a solver."""
    # a wrapped game, for which a search stands in
    if hasattr(env.options, "success_at"):
        return (
            "call a lower return a success (env.kwargs.success_at), register a class of your own that derives from "
            "trm_envs.gym_tool.GymTool and defines solution(), or take a model of your own (model=hub)"
        )
    return "define solution(), or take a model of your own (model=hub)"
