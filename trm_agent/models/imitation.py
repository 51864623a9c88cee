"""Imitation of solved episodes: supervised steps of any causal language model until a measured success.

The averaged weights (an exponential moving average over the steps) are measured and kept: their success grows smoothly,
so that it can be caught on the way up. The last stretch lies between two averages.

Weights of less than float32 are computed with as they are; the optimizer moves float32 copies of them, since a step is
smaller than their rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]
# settings of a model's configuration that change its logits after the last matrix
_AFTER_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


@dataclass(frozen=True)
class Batch:
    """Tokenised conversations, padded on the right."""

    input_ids: Tensor
    """Token ids, shape (batch, length)."""
    loss_mask: Tensor
    """True where the model itself wrote the token (text and end of turn), shape (batch, length)."""


@dataclass(frozen=True)
class Schedule:
    """How long to imitate, and how fast."""

    learning_rate: float
    """Of AdamW, constant after the first steps."""
    target: float
    """Success to stop at; 0 to take all steps."""
    max_steps: int
    """Largest number of steps."""
    max_seconds: float
    """Wall-clock limit; infinite for none."""
    measure_every: int = 5
    """Steps from one measurement to the next."""
    warm_up_steps: int = 20
    """Steps in which the learning rate grows to its full size."""
    average_decay: float = 0.95
    """Share of the average that a step keeps, less in the first steps."""


@dataclass(frozen=True)
class State:
    """Imitation after a step."""

    step: int
    """Number of the step."""
    loss: float
    """Running mean of the loss, nats per token."""
    success: float
    """Success of the averaged weights as last measured, 0 to 1; 0 before."""


@dataclass(frozen=True)
class Ending:
    """How an imitation ended."""

    num_steps: int
    """Number of optimizer steps."""
    reached: bool
    """Whether the target was reached, or without one all steps were taken."""
    success: float
    """Success of the averaged weights as last measured, 0 to 1."""


def padded(rows: Sequence[Sequence[int]], masks: Sequence[Any], pad: int) -> Batch:
    """Return tokenised conversations as one batch.

    Args:
        rows: token ids of each.
        masks: which of them the model wrote: booleans, one for each token.
        pad: token to fill up with.
    """
    length = max(map(len, rows))
    input_ids = torch.full((len(rows), length), pad)
    loss_mask = torch.zeros((len(rows), length), dtype=torch.bool)
    for row, (ids, mask) in enumerate(zip(rows, masks, strict=True)):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        loss_mask[row, : len(ids)] = torch.tensor(mask)
    return Batch(input_ids, loss_mask)


def token_log_probs(model: Any, batch: Batch) -> Tensor:
    """Return the log-probabilities of the tokens under the loss mask, nats, shape (number of masked tokens,).

    Padding stands on the right and attention is causal, so no attention mask is needed.
    """
    mask = batch.loss_mask[:, 1:]
    if any(getattr(model.config, name, None) not in (None, 1, 1.0) for name in _AFTER_LOGITS):
        logits = model(input_ids=batch.input_ids, use_cache=False).logits[:, :-1][mask].float()
    else:
        # the matrix of the vocabulary on the model's own tokens alone
        hidden = model.base_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
        logits = model.get_output_embeddings()(hidden[:, :-1][mask]).float()
    return logits.log_softmax(-1).gather(-1, batch.input_ids[:, 1:][mask][:, None])[:, 0]


class Imitation:
    """A model on its way, with the average of its weights.

    Args:
        model: a Hugging Face model; parameters that require a gradient are trained, in place.
        schedule: how fast.

    Attributes:
        average: the averaged weights, float32.
        state: the step, its loss, and the success as last measured.
    """

    def __init__(self, model: Any, schedule: Schedule) -> None:
        self.model, self.schedule = model, schedule
        self._trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._masters = {name: _master(weight) for name, weight in self._trained.items()}
        self._optimizer = torch.optim.AdamW(
            self._masters.values(), lr=schedule.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )
        self.average = self.copy()
        self.state = State(0, 10.0, 0.0)

    def copy(self) -> Weights:
        """Return a copy of the weights, float32."""
        return {name: master.detach().clone() for name, master in self._masters.items()}

    def take_step(self, batch: Batch) -> None:
        """Take an optimizer step on a batch, and add its weights to the average."""
        schedule, step = self.schedule, self.state.step + 1
        for group in self._optimizer.param_groups:
            group["lr"] = schedule.learning_rate * min(1.0, step / schedule.warm_up_steps)
        loss = -token_log_probs(self.model, batch).mean()
        self._optimizer.zero_grad()
        loss.backward()
        for name, master in self._masters.items():
            weight = self._trained[name]
            if master is not weight and weight.grad is not None:
                master.grad, weight.grad = weight.grad.float(), None
        torch.nn.utils.clip_grad_norm_(self._masters.values(), 1.0)
        self._optimizer.step()
        share = 1 - min(schedule.average_decay, step / (step + 10))
        with torch.no_grad():
            for name, master in self._masters.items():
                if master is not self._trained[name]:
                    self._trained[name].copy_(master)
                self.average[name].lerp_(master, share)
        self.state = State(step, 0.9 * self.state.loss + 0.1 * float(loss.detach()), self.state.success)

    def load(self, weights: Weights) -> None:
        """Give the model these weights for good; nothing can be trained afterwards."""
        self._put(weights)

    @contextmanager
    def holding(self, weights: Weights) -> Iterator[None]:
        """Give the model other weights for a while."""
        own = {
            name: master.detach().clone() if master is self._trained[name] else master
            for name, master in self._masters.items()
        }
        self._put(weights)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, weights: Weights) -> None:
        for name, weight in self._trained.items():
            weight.copy_(weights[name])


Measure = Callable[[], float]
"""Returns the success of the weights that the model holds, 0 to 1."""
Settle = Callable[[Callable[[float], float], float, tuple[float, float]], float]
"""Given the success at each share of the way between two averages, the target, and the success at both ends as it was
measured, returns the share to stop at."""


def imitate(
    imitation: Imitation,
    draw: Callable[[], Batch],
    measure: Measure,
    settle: Settle,
    *,
    worth_measuring: Callable[[float], bool] = lambda loss: True,
    report: Callable[[State], None] = lambda state: None,
) -> Ending:
    """Train until the averaged weights reach the target, and leave the model with weights that just reach it.

    Without a target it is left with the average after the last step; where the target is not reached, with the
    weights of the last step.

    Args:
        imitation: a model at its start.
        draw: returns the next batch.
        measure: measures the success of the weights that the model holds.
        settle: finds the place between the last average below the target and the first above it.
        worth_measuring: tells from the running loss, nats per token, whether there can be any success.
        report: called after each step.
    """
    schedule, started = imitation.schedule, time.monotonic()
    before, below = imitation.copy(), 0.0

    def success_of(weights: Weights) -> float:
        with imitation.holding(weights):
            return measure()

    while imitation.state.step < schedule.max_steps:
        imitation.take_step(draw())
        state = imitation.state
        if state.step % schedule.measure_every == 0:
            if worth_measuring(state.loss):
                state = imitation.state = State(state.step, state.loss, success_of(imitation.average))
            report(state)
            if schedule.target and state.success >= schedule.target:
                after = imitation.average
                ends = (below, state.success)
                way = partial(between, before, after)
                share = settle(partial(_success_on, way, success_of), schedule.target, ends)
                imitation.load(way(share))
                return Ending(state.step, True, state.success)
            before = {name: weight.clone() for name, weight in imitation.average.items()}
            below = state.success
        else:
            report(state)
        if time.monotonic() - started > schedule.max_seconds:
            break
    if schedule.target or imitation.state.step < schedule.max_steps:
        return Ending(imitation.state.step, False, imitation.state.success)
    imitation.load(imitation.average)
    return Ending(imitation.state.step, True, imitation.state.success)


def _success_on(way: Callable[[float], Weights], success_of: Callable[[Weights], float], share: float) -> float:
    return success_of(way(share))


def between(first: Weights, second: Weights, share: float) -> Weights:
    """Return weights at a share of the way from one to the other."""
    return {name: torch.lerp(weight, second[name], share) for name, weight in first.items()}


def halving(success_at: Callable[[float], float], target: float, ends: tuple[float, float]) -> float:
    """Return the share at which success passes the target, as nearly as six halvings find: for an exact measure."""
    low, high = 0.0, 1.0
    for _ in range(6):
        middle = (low + high) / 2
        low, high = (low, middle) if success_at(middle) > target else (middle, high)
    return high


def _master(weight: Tensor) -> Tensor:
    """Return the weight itself where it is float32, else a float32 copy for the optimizer."""
    return weight if weight.dtype == torch.float32 else weight.detach().float().requires_grad_()
