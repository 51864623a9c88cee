"""The measure of token budgets that training and evaluation share: the scripted solver, played through the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from trm_agent.episode import ChatTokens, Episode, Generation, Limits, run_episode
from trm_agent.tasks import Task, make_env

_UNLIMITED = 10**9


@dataclass(frozen=True)
class SolverTokens:
    """The size of the scripted solver's episode in a model's tokens."""

    prompt: int
    """Tokens of the prompt."""
    response: int
    """Tokens after the prompt, with observations; 0 without a solver that plays the task."""
    turns: int
    """Number of the solver's turns; 0 without one."""
    tool_calls: int = 0
    """Number of the solver's tool calls; 0 without one."""
    turn: int = 0
    """Tokens of the solver's longest turn; 0 without one."""
    failure: str | None = None
    """The reason why the response was not measured; None if it was."""


def measure_solver(
    task: Task, module: str | None, kwargs: Mapping[str, Any], tokenizer: Any, chat: ChatTokens, limits: Limits
) -> SolverTokens:
    """Play a task with the environment's own solver in place of a model.

    Args:
        task: the task to play.
        module: the module that registers its environment.
        kwargs: arguments of `gymnasium.make`.
        tokenizer: the model's tokenizer.
        chat: settings of the model's chat template.
        limits: limits of an episode, whose budgets are lifted, so that an episode beyond them is measured to its end.
    """
    solver = _Solver(task, module, kwargs, tokenizer, chat)
    names = ("max_turns", "max_tool_calls", "max_turn_tokens", "max_prompt_tokens", "max_response_tokens")
    lifted = replace(limits, **dict.fromkeys(names, _UNLIMITED))
    play = run_episode(
        solver.make, solver, chat, lifted, env_id=task.env_id, seed=task.seed, options=dict(task.options)
    )
    episode = asyncio.run(play)
    if failure := _failure(episode):
        return SolverTokens(len(episode.prompt_ids), 0, 0, failure=failure)
    return SolverTokens(
        prompt=len(episode.prompt_ids),
        response=len(episode.response_ids),
        turns=episode.num_turns,
        tool_calls=episode.num_tool_calls,
        turn=max(stop - start for start, stop in (turn.token_span for turn in episode.turns)),
    )


def counts(solved: SolverTokens) -> tuple[int, ...]:
    """Return the numbers of a size, in the order of its fields."""
    return solved.prompt, solved.response, solved.turns, solved.tool_calls, solved.turn


def needed_limits(solved: SolverTokens, limits: Limits) -> dict[str, int]:
    """Return the limits that the solver's own episode exceeds, with the least value of each.

    Tokens have a quarter more than this one episode took, since another one of the same length may take more.
    """
    steps = {"max_turns": solved.turns, "max_tool_calls": solved.tool_calls}
    tokens = {
        "max_turn_tokens": solved.turn,
        "max_prompt_tokens": solved.prompt,
        "max_response_tokens": solved.response,
    }
    least = {**steps, **{name: needed + needed // 4 for name, needed in tokens.items()}}
    needs = {**steps, **tokens}
    return {
        name: least[name]
        for name, needed in needs.items()
        if (limit := getattr(limits, name)) is not None and needed > limit
    }


def told_needs(solved: SolverTokens) -> str:
    """Return the size of the solver's episode in words."""
    return (
        f"{solved.turns} turns, {solved.tool_calls} tool calls, {solved.turn} tokens in a turn, {solved.prompt} tokens "
        f"of prompt and {solved.response} after it"
    )


def _failure(episode: Episode) -> str | None:
    if episode.is_infrastructure_failure or episode.scorer_error is not None:
        return f"{episode.stop_reason}: {episode.error or episode.scorer_error}"
    return None


class _Solver:
    """The environment's scripted solver as a `Generator`, with its turns in the model's tokens."""

    def __init__(
        self, task: Task, module: str | None, kwargs: Mapping[str, Any], tokenizer: Any, chat: ChatTokens
    ) -> None:
        self.task, self.module, self.kwargs = task, module, kwargs
        self.tokenizer, self.chat = tokenizer, chat
        self.env: Any = None

    def make(self) -> Any:
        self.env = make_env(self.task.env_id, self.module, self.kwargs)
        return self.env

    async def generate(self, prompt_ids: list[int], max_tokens: int) -> Generation:
        text = self.chat.as_turn(self.env.unwrapped.solution())
        token_ids = [*self.tokenizer.encode(text, add_special_tokens=False), self.chat.end_of_turn_id]
        return Generation(token_ids=token_ids, log_probs=[0.0] * len(token_ids), finished=True)
