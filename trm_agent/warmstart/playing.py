"""The success of a transformers model at one horizon: held-out tasks, played as training and evaluation play them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from trm_agent.episode import ChatTokens, Episode, Limits, run_episode
from trm_agent.models.hf_generator import HuggingFaceGenerator
from trm_agent.models.imitated import tokenised
from trm_agent.models.lockstep import LockstepGenerator, suits
from trm_agent.models.traces import Solver
from trm_agent.tasks import make_env

SPLIT = "held_out"
# keys and values of the episodes that are in play at a time
CACHE_BYTES = 3 << 30
_MEASURED = 8


@dataclass(frozen=True)
class Game:
    """Tasks of one horizon, and the model's side of them."""

    env_id: str
    """Gymnasium id."""
    module: str | None
    """Module that registers it; None for an environment of the suite."""
    kwargs: Mapping[str, Any]
    """Arguments of `gymnasium.make`, with a protocol by name."""
    horizon: int
    """Steps of a task."""
    limits: Limits
    """When an episode stops."""
    chat: ChatTokens = field(repr=False)
    """Renderer of the model's chat template."""


@dataclass(frozen=True)
class Played:
    """Played tasks; those that could not be played for reasons of the infrastructure are left out."""

    num_successes: int
    """Number of successes."""
    num_tasks: int
    """Number of tasks."""
    num_tokens: int = 0
    """Tokens that the model sampled."""

    @property
    def rate(self) -> float:
        """Return the share of successes; 0 without a task."""
        return self.num_successes / self.num_tasks if self.num_tasks else 0.0

    def __add__(self, other: Played) -> Played:
        return Played(
            self.num_successes + other.num_successes,
            self.num_tasks + other.num_tasks,
            self.num_tokens + other.num_tokens,
        )


def room_for_solver(solver: Solver, horizon: int, tokenizer: Any, chat: ChatTokens) -> Limits:
    """Return limits with half as much again as the solver's own episodes take, and no second try after a bad call.

    A model that has never seen an error does not recover from one, and would ramble until a limit stops it.
    """
    longest = {"turns": 0, "turn": 0, "observation": 0, "prompt": 0, "response": 0}
    for seed in range(_MEASURED):
        trace = solver.solve(seed, horizon)
        _, mask = tokenised(trace, tokenizer, chat)
        turns, answers = _lengths(mask)
        found = {
            "turns": len(turns),
            "turn": max(turns),
            "observation": max(answers[1:], default=1),
            "prompt": answers[0],
            "response": len(mask) - answers[0],
        }
        longest = {name: max(value, found[name]) for name, value in longest.items()}
    roomy = {name: math.ceil(1.5 * value) for name, value in longest.items()}
    return Limits(
        max_turns=longest["turns"] + 2,
        max_tool_calls=4 * (longest["turns"] + 2),
        max_malformed_turns=1,
        max_turn_tokens=roomy["turn"],
        max_observation_tokens=roomy["observation"],
        max_prompt_tokens=None,
        max_response_tokens=roomy["response"],
        generate_timeout_s=86400.0,
        episode_timeout_s=86400.0,
    )


def _lengths(mask: Sequence[bool]) -> tuple[list[int], list[int]]:
    """Return the lengths of the model's turns, and of what stands before each of them."""
    runs: list[list[int]] = [[], []]
    place = 0
    while place < len(mask):
        end = next((each for each in range(place, len(mask)) if mask[each] != mask[place]), len(mask))
        runs[mask[place]].append(end - place)
        place = end
    return runs[True], runs[False]


def play(model: Any, game: Game, seeds: Sequence[int], sampling_seed: int) -> Played:
    """Play a task for each seed at temperature 1.

    Args:
        model: a transformers model.
        game: the tasks.
        seeds: of the tasks.
        sampling_seed: of what is sampled.

    Raises:
        RuntimeError: no task could be played.
    """
    # waves of one size
    number = math.ceil(len(seeds) / math.ceil(len(seeds) / at_once(model, game.limits)))
    total, failed = Played(0, 0), ""
    for start in range(0, len(seeds), number):
        episodes = asyncio.run(_play(model, game, seeds[start : start + number], sampling_seed + start))
        played = [episode for episode in episodes if not episode.is_infrastructure_failure]
        failed = next((f"{each.stop_reason}: {each.error}" for each in episodes if each.error), failed)
        total += Played(
            sum(episode.success for episode in played), len(played), sum(each.num_model_tokens for each in played)
        )
    if not total.num_tasks:
        raise RuntimeError(f"no task of {game.env_id} at horizon {game.horizon} could be played: {failed}")
    return total


def at_once(model: Any, limits: Limits) -> int:
    """Return how many episodes `CACHE_BYTES` hold the keys and values of, if none is longer than the solver's."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token = 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize
    return max(1, CACHE_BYTES // (token * limits.max_response_tokens))


async def _play(model: Any, game: Game, seeds: Sequence[int], sampling_seed: int) -> list[Episode]:
    stops = game.chat.stop_token_ids
    lockstep = LockstepGenerator(model, stops, seed=sampling_seed) if suits(model.config.get_text_config()) else None
    generator = lockstep or HuggingFaceGenerator(model, stops, seed=sampling_seed)

    async def one(seed: int) -> Episode:
        try:
            return await run_episode(
                partial(make_env, game.env_id, game.module, dict(game.kwargs)),
                generator,
                game.chat,
                game.limits,
                env_id=game.env_id,
                seed=seed,
                options={"horizon": game.horizon, "split": SPLIT},
            )
        finally:
            if lockstep is not None:
                lockstep.playing -= 1

    if lockstep is not None:
        lockstep.playing = len(seeds)
    was_training = model.training
    model.eval()
    try:
        return await asyncio.gather(*(one(seed) for seed in seeds))
    finally:
        model.train(was_training)
