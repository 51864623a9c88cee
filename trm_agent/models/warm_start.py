"""The nano model's warm start: supervised steps on solver traces until a measured success, not a number of steps.

The averaged weights (an exponential moving average over the steps) are measured and kept: their success grows smoothly,
so that it can be caught on the way up. The last stretch is a bisection between two averages.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from trm_agent.models.failure import WarmStartFailed
from trm_agent.models.nano_spec import NanoSpec
from trm_agent.models.tokenizer import TURN_END, TURN_START, render
from trm_agent.models.traces import Trace

MODEL_TURN = re.compile(re.escape(f"{TURN_START}assistant\n") + "(.*?" + re.escape(TURN_END) + ")", re.DOTALL)
AVERAGE_DECAY = 0.95
WARM_UP_STEPS = 20
# Tasks per measurement; seeds of measured tasks start here, and their split is the held-out one.
NUM_MEASURED = 96
MEASURE_EVERY = 5
HOPELESS_NATS = 9.0


@dataclass(frozen=True)
class Batch:
    """Tokenised conversations, padded on the right."""

    input_ids: Tensor
    """Token ids, shape (batch, length)."""
    loss_mask: Tensor
    """True where the model itself wrote the token (text and end of turn), shape (batch, length)."""


@dataclass(frozen=True)
class WarmStart:
    """The outcome of a warm start."""

    num_steps: int
    """Number of optimizer steps."""
    success: float
    """Success at the target horizon, 0 to 1, on held-out tasks."""


def make_batch(tokenizer: PreTrainedTokenizerFast, traces: Sequence[Trace]) -> Batch:
    """Tokenise solved episodes, and mark the tokens that the model writes."""
    texts = [render(tokenizer, trace) for trace in traces]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    length = max(len(ids) for ids in encoded["input_ids"])
    input_ids = torch.full((len(texts), length), int(tokenizer.pad_token_id))
    loss_mask = torch.zeros((len(texts), length), dtype=torch.bool)
    for row, (text, ids, offsets) in enumerate(
        zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        starts = np.array([start for start, _ in offsets])
        for turn in MODEL_TURN.finditer(text):
            loss_mask[row, : len(ids)] |= torch.from_numpy((starts >= turn.start(1)) & (starts < turn.end(1)))
    return Batch(input_ids, loss_mask)


def token_log_probs(model: Qwen3ForCausalLM, batch: Batch) -> Tensor:
    """Return the log-probabilities of the tokens under the loss mask, nats, shape (number of masked tokens,).

    Padding stands on the right and attention is causal, so no attention mask is needed.
    """
    hidden = model.model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
    mask = batch.loss_mask[:, 1:]
    logits = model.lm_head(hidden[:, :-1][mask]).float()
    return logits.log_softmax(-1).gather(-1, batch.input_ids[:, 1:][mask][:, None])[:, 0]


@torch.no_grad()
def measure_success(model: Qwen3ForCausalLM, batch: Batch) -> float:
    """Return the mean probability, at temperature 1, of the whole right trajectory with the tool results given."""
    log_probs = token_log_probs(model, batch)
    rows = batch.loss_mask[:, 1:].nonzero()[:, 0]
    totals = torch.zeros(len(batch.input_ids)).index_add_(0, rows, log_probs)
    return float(totals.exp().mean())


def success_at(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, spec: NanoSpec, horizon: int, num_tasks: int
) -> float:
    """Measure success on held-out tasks of one horizon."""
    return measure_success(model, held_out_batch(tokenizer, spec, horizon, num_tasks))


def held_out_batch(tokenizer: PreTrainedTokenizerFast, spec: NanoSpec, horizon: int, num_tasks: int) -> Batch:
    """Return solved held-out tasks of one horizon."""
    solver = spec.solver("held_out")
    return make_batch(tokenizer, [solver.solve(seed, horizon) for seed in range(num_tasks)])


def warm_start(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    spec: NanoSpec,
    max_seconds: float,
    report: Callable[[int, float, float], None] = lambda step, loss, success: None,
) -> WarmStart:
    """Train the model in place until its averaged weights reach `spec.target_success`, or all steps if that is 0.

    Args:
        model: a fresh model in float32.
        tokenizer: its tokenizer.
        spec: a `NanoSpec`.
        max_seconds: wall-clock limit; infinite for none.
        report: called after each step with its number, the running loss (nats per token) and the last measured success.

    Raises:
        WarmStartFailed: if the target is not reached within `spec.max_steps` or `max_seconds`.
    """
    started = time.monotonic()
    measured = held_out_batch(tokenizer, spec, spec.horizon, NUM_MEASURED)
    batches = _Batches(tokenizer, spec)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=spec.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    average = _copy(model)
    before, success = average, 0.0
    running_loss, num_tokens = 10.0, float(measured.loss_mask.sum()) / len(measured.loss_mask)
    for step in range(1, spec.max_steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = spec.learning_rate * min(1.0, step / WARM_UP_STEPS)
        loss = -token_log_probs(model, batches.draw()).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average = _between(average, _copy(model), 1 - min(AVERAGE_DECAY, step / (step + 10)))
        running_loss = 0.9 * running_loss + 0.1 * float(loss.detach())
        if step % MEASURE_EVERY == 0:
            # Measuring costs as much as several steps: not before the training loss makes success likely.
            if running_loss * num_tokens < HOPELESS_NATS:
                success = _success_of(average, model, measured)
            if success >= (spec.target_success or math.inf):
                report(step, running_loss, success)
                return WarmStart(step, _settle(model, before, average, measured, spec))
            before = average
        report(step, running_loss, success)
        if time.monotonic() - started > max_seconds:
            break
    if not spec.target_success and step == spec.max_steps:
        _load(model, average)
        return WarmStart(step, measure_success(model, measured))
    wanted = f"{spec.target_success} was wanted" if spec.target_success else f"{spec.max_steps} steps were wanted"
    raise WarmStartFailed(
        f"the warm start of the nano model on {spec.env_id} reached {success:.2f} success at horizon {spec.horizon} in "
        f"{step} steps and {time.monotonic() - started:.0f} s; {wanted}",
        f"allow more than max_seconds={max_seconds:.0f}" if step < spec.max_steps else _remedy(spec),
    )


def _remedy(spec: NanoSpec) -> str:
    return (
        f"measure at an easier horizon (env.nano.horizon=1), take more steps (env.nano.max_steps={2 * spec.max_steps}) "
        f"or a model of your own (model=hub); env.nano.target_success=0 imitates for {spec.max_steps} steps and "
        "lets RL begin from whatever that gives"
    )


class _Batches:
    """Batches of fresh training tasks, each of one horizon and about `spec.batch_tokens` tokens, for little padding."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, spec: NanoSpec) -> None:
        self.tokenizer, self.spec = tokenizer, spec
        self.solver = spec.solver("train")
        self.rng = np.random.default_rng(spec.seed)
        self.num_drawn = 0
        self.lengths = {
            horizon: make_batch(tokenizer, [self.solver.solve(0, horizon)]).input_ids.shape[1]
            for horizon in spec.warm_start_horizons
        }

    def draw(self) -> Batch:
        self.num_drawn += 1
        horizons = self.spec.warm_start_horizons
        horizon = horizons[0] if self.num_drawn <= self.spec.num_short_steps else int(self.rng.choice(horizons))
        num_traces = max(1, self.spec.batch_tokens // self.lengths[horizon])
        seeds = self.rng.integers(2**31, size=num_traces)
        return make_batch(self.tokenizer, [self.solver.solve(int(seed), horizon) for seed in seeds])


Weights = dict[str, Tensor]


def _copy(model: Qwen3ForCausalLM) -> Weights:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def _between(first: Weights, second: Weights, share: float) -> Weights:
    return {name: torch.lerp(weight, second[name], share) for name, weight in first.items()}


def _load(model: Qwen3ForCausalLM, weights: Weights) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(weights[name])


def _success_of(weights: Weights, model: Qwen3ForCausalLM, measured: Batch) -> float:
    """Measure success with other weights in the model."""
    own = _copy(model)
    _load(model, weights)
    success = measure_success(model, measured)
    _load(model, own)
    return success


def _settle(model: Qwen3ForCausalLM, below: Weights, above: Weights, measured: Batch, spec: NanoSpec) -> float:
    """Load weights between the last two averages whose success is the target's, as nearly as six halvings find."""
    low, high = 0.0, 1.0
    for _ in range(6):
        middle = (low + high) / 2
        too_good = _success_of(_between(below, above, middle), model, measured) > spec.target_success
        low, high = (low, middle) if too_good else (middle, high)
    _load(model, _between(below, above, high))
    return measure_success(model, measured)
