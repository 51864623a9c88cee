"""Episodes that last to the context's end, whatever the model writes: it samples, and a solver's answers come back.

A model's own episodes end when it answers, or rambles. Here each turn is sampled by the engine, and what follows it is
what the environment answered to its scripted solver at that place: contexts as long and as mixed as those of a run,
with turns that the engine itself sampled and recorded. When a task is over, the next follows as a user's message.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from trm_agent.episode import ChatTokens, Generator
from trm_agent.models.traces import Solver
from trm_agent.numerics.spec import NumericsSpec, flag_of
from trm_fields import refuse


@dataclass(frozen=True)
class Played:
    """One episode as the engine sampled it."""

    ids: list[int]
    """Tokens, the prompt among them."""
    sampled: list[bool]
    """Whether the engine sampled a token."""
    log_probs: list[float]
    """Log-probs that it recorded, nats; 0.0 for other tokens."""
    num_turns: int
    """Turns of the model."""

    @property
    def num_sampled(self) -> int:
        """Return the number of sampled tokens."""
        return sum(self.sampled)


async def play(
    generators: Sequence[Generator],
    solver: Solver,
    chat: ChatTokens,
    spec: NumericsSpec,
    tokens: int,
    report: Callable[[int], Any] = lambda number: None,
) -> list[Played]:
    """Play an episode with each generator, all at once.

    Args:
        generators: of the engine, one for each episode.
        solver: of the environment whose answers follow the turns.
        chat: renderer of the model's chat template.
        spec: how episodes are played.
        tokens: the length at which they end.
        report: gets the number of tokens by which an episode has grown.

    Raises:
        ValueError: a prompt leaves no room for a turn, or the engine's answer cannot be used.
    """
    firsts = [spec.seed + 1_000 * number for number in range(len(generators))]
    conversations = [_conversation(solver, spec.horizon, first) for first in firsts]
    return list(
        await asyncio.gather(
            *(
                _episode(generator, conversation, chat, spec.turn_tokens, tokens, report)
                for generator, conversation in zip(generators, conversations, strict=True)
            )
        )
    )


@dataclass(frozen=True)
class Conversation:
    """What an environment says to its solver."""

    system: str
    """System prompt."""
    first: str
    """The first task."""
    tools: list[dict[str, Any]]
    """Schemas of its tools."""
    answers: Iterator[tuple[str, str]]
    """Role and text of what follows each turn, without end."""


def _conversation(solver: Solver, horizon: int, seed: int) -> Conversation:
    trace = solver.solve(seed, horizon)
    told = list(trace.messages)
    system = told.pop(0)["content"] if told[0]["role"] == "system" else ""
    first = told.pop(0)["content"]

    def answers() -> Iterator[tuple[str, str]]:
        messages, number = told, seed
        while True:
            yield from ((each["role"], each["content"]) for each in messages if each["role"] != "assistant")
            number += 1
            messages = [each for each in solver.solve(number, horizon).messages if each["role"] != "system"]

    return Conversation(system, first, trace.tools, answers())


async def _episode(
    generator: Generator,
    conversation: Conversation,
    chat: ChatTokens,
    turn_tokens: int,
    tokens: int,
    report: Callable[[int], Any],
) -> Played:
    ids = chat.prompt(conversation.system, conversation.first, conversation.tools)
    if len(ids) >= tokens:
        refuse(flag_of("tokens"), tokens, f"more than the {len(ids)} of the prompt alone", "raise it")
    sampled, log_probs, num_turns = [False] * len(ids), [0.0] * len(ids), 0
    report(len(ids))
    while len(ids) < tokens:
        turn = await generator.generate(ids, min(turn_tokens, tokens - len(ids)))
        if not turn.token_ids or not all(map(math.isfinite, turn.log_probs)):
            raise ValueError(f"turn {num_turns + 1}: the engine sampled nothing, or recorded no finite log-probs")
        ids = [*ids, *turn.token_ids]
        sampled += [True] * len(turn.token_ids)
        log_probs += turn.log_probs
        num_turns += 1
        role, text = next(conversation.answers)
        answer = chat.observation(role, text, model_turn_finished=chat.closes_turn(turn.token_ids, role))
        report(len(turn.token_ids))
        if len(ids) + len(answer) >= tokens:
            break
        ids = [*ids, *answer]
        sampled += [False] * len(answer)
        log_probs += [0.0] * len(answer)
        report(len(answer))
    return Played(ids, sampled, log_probs, num_turns)
