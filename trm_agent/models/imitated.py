"""What is imitated: an environment's solved tasks in a model's tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from trm_agent.episode import ChatTokens
from trm_agent.models.imitation import Batch, padded
from trm_agent.models.traces import Solver, Trace

Tokenise = Callable[[Sequence[Trace]], Batch]


def tokenised(trace: Trace, tokenizer: Any, chat: ChatTokens) -> tuple[list[int], list[bool]]:
    """Return the tokens of a solved episode as an episode of the model's own has them, and which of them it writes.

    Prompt and answers come from the renderer that plays episodes, and no token spans their borders: an imitated token
    is one that the model can sample.
    """
    said = list(trace.messages)
    system = said.pop(0)["content"] if said[0]["role"] == "system" else ""
    ids = chat.prompt(system, said[0]["content"], trace.tools)
    mask = [False] * len(ids)
    for place, message in enumerate(said[1:], start=1):
        if message["role"] == "assistant":
            more = [*tokenizer.encode(chat.as_turn(message["content"]), add_special_tokens=False), chat.end_of_turn_id]
        else:
            closed = chat.closes_turn(ids, message["role"])
            more = chat.observation(message["role"], message["content"], model_turn_finished=closed)
        ids += more
        mask += [message["role"] == "assistant"] * len(more)
        assert (message["role"] == "assistant") == (place % 2 == 1), "the model and the environment take turns"
    return ids, mask


def tokeniser(tokenizer: Any, chat: ChatTokens) -> Tokenise:
    """Return a function that makes a batch of solved episodes."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else chat.end_of_turn_id

    def batch(traces: Sequence[Trace]) -> Batch:
        rows, masks = zip(*(tokenised(trace, tokenizer, chat) for trace in traces), strict=True)
        return padded(rows, masks, int(pad))

    return batch


class Batches:
    """Batches of fresh tasks, each of one horizon and about so many tokens, for little padding.

    Args:
        solver: the player of the tasks.
        tokenise: makes a batch of its episodes.
        horizons: drawn evenly.
        batch_tokens: tokens of a batch, about; one episode at least.
        seed: of the draws.
        num_short: batches of the first of the horizons alone at the start.
    """

    def __init__(
        self,
        solver: Solver,
        tokenise: Tokenise,
        horizons: Sequence[int],
        batch_tokens: int,
        seed: int,
        num_short: int = 0,
    ) -> None:
        self.solver, self.tokenise = solver, tokenise
        self.horizons, self.batch_tokens, self.num_short = tuple(horizons), batch_tokens, num_short
        self.rng = np.random.default_rng(seed)
        self.num_drawn = self.num_tokens = 0
        self.lengths: Mapping[int, int] = {
            horizon: tokenise([solver.solve(0, horizon)]).input_ids.shape[1] for horizon in horizons
        }

    def draw(self) -> Batch:
        """Return the next batch."""
        self.num_drawn += 1
        short = self.num_drawn <= self.num_short
        horizon = self.horizons[0] if short else int(self.rng.choice(self.horizons))
        num_traces = max(1, self.batch_tokens // self.lengths[horizon])
        seeds = self.rng.integers(2**31, size=num_traces)
        batch = self.tokenise([self.solver.solve(int(seed), horizon) for seed in seeds])
        self.num_tokens += batch.input_ids.numel()
        return batch
