"""Where a nano model's turn first leaves the solver's, for a person who asks why a warm start does not succeed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from trm_agent.models.nano_spec import NanoSpec
from trm_agent.models.tokenizer import TURN_END
from trm_agent.models.warm_start import make_batch, success_at

NUM_TRIED = 8
NUM_MEASURED = 32
MAX_CHARS = 160
LEARNT = 0.01


@dataclass(frozen=True)
class Difference:
    """A turn of a held-out task in which the model, taking its likeliest tokens, leaves the solver."""

    horizon: int
    """Steps of the task."""
    turn: int
    """Number of the turn, from 1; before it the conversation is the solver's."""
    told: str
    """Message that the turn answers."""
    solver: str
    """Turn of the solver."""
    model: str
    """Turn of the model."""

    def lines(self) -> list[str]:
        """Return the difference for a terminal."""
        return [
            f"  a held-out task of horizon {self.horizon}, turn {self.turn}, on {_shown(self.told)}",
            f"    the solver writes {_shown(self.solver)}",
            f"    the model writes  {_shown(self.model)}",
        ]


def learnt_so_far(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, spec: NanoSpec) -> list[str]:
    """Return lines on the shortest of a warm start's horizons: its success, and where it has none, a difference."""
    horizon = min(spec.warm_start_horizons)
    success = success_at(model, tokenizer, spec, horizon, NUM_MEASURED)
    lines = [
        f"  success at horizon {horizon}, the shortest that it practises: {success:.2f} "
        "(of the last step's weights; the target is measured on their average)"
    ]
    found = first_difference(model, tokenizer, spec, horizon) if success < LEARNT else None
    return lines + (found.lines() if found else [])


@torch.no_grad()
def first_difference(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, spec: NanoSpec, horizon: int
) -> Difference | None:
    """Return the first difference in the first held-out task that has one; None if none of a few has."""
    solver = spec.solver("held_out")
    for seed in range(NUM_TRIED):
        trace = solver.solve(seed, horizon)
        batch = make_batch(tokenizer, [trace])
        ids, mask = batch.input_ids[0], batch.loss_mask[0]
        likeliest = model(input_ids=batch.input_ids, use_cache=False).logits[0, :-1].argmax(-1)
        wrong = (mask[1:] & (likeliest != ids[1:])).nonzero()
        if len(wrong):
            place = int(wrong[0]) + 1
            starts = (mask[1:] & ~mask[:-1]).nonzero()[:, 0] + 1
            turn = int((starts <= place).sum())
            start = int(starts[turn - 1])
            answered = [message for message in trace.messages if message["role"] != "system"][2 * turn - 2]
            written = [message["content"] for message in trace.messages if message["role"] == "assistant"]
            own = _go_on(model, ids[:place], int(tokenizer.eos_token_id), len(ids) - start + 16)
            text = str(tokenizer.decode(own[start:])).removesuffix(TURN_END)
            return Difference(horizon, turn, answered["content"], written[turn - 1], text)
    return None


def _go_on(model: Qwen3ForCausalLM, ids: Tensor, end: int, most: int) -> Tensor:
    """Return the tokens with the likeliest ones after them, up to the end of the turn or so many."""
    for _ in range(most):
        following = model(input_ids=ids[None], use_cache=False).logits[0, -1].argmax()
        ids = torch.cat([ids, following[None]])
        if int(following) == end:
            break
    return ids


def _shown(text: str) -> str:
    line = repr(" ".join(text.split()))
    return line if len(line) <= MAX_CHARS else f"{line[: MAX_CHARS - 3]}..."
