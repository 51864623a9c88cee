"""The nano model's warm start: `trm_agent.models.imitation` of its environment's solver, measured by teacher forcing.

Its success is the probability that it samples the solver's own turns. A model of a million parameters knows no others,
so that this is what it would play, and exact.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from trm_agent.models.failure import WarmStartFailed
from trm_agent.models.imitated import Batches
from trm_agent.models.imitation import Batch, Imitation, Schedule, State, halving, imitate, padded, token_log_probs
from trm_agent.models.nano_spec import NanoSpec
from trm_agent.models.tokenizer import TURN_END, TURN_START, render
from trm_agent.models.traces import Trace

MODEL_TURN = re.compile(re.escape(f"{TURN_START}assistant\n") + "(.*?" + re.escape(TURN_END) + ")", re.DOTALL)
# Tasks per measurement; seeds of measured tasks start here, and their split is the held-out one.
NUM_MEASURED = 96
HOPELESS_NATS = 9.0


@dataclass(frozen=True)
class WarmStart:
    """The outcome of a warm start."""

    num_steps: int
    """Number of optimizer steps."""
    success: float
    """Success at the target horizon, 0 to 1, on held-out tasks."""


def make_batch(tokenizer: PreTrainedTokenizerFast, traces: Sequence[Trace]) -> Batch:
    """Tokenise solved episodes, and mark the tokens that the model writes.

    The nano model's tokenizer merges nothing across the borders of a turn, so that a conversation is tokenised whole,
    which takes a fraction of the time that it takes turn by turn.
    """
    texts = [render(tokenizer, trace) for trace in traces]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    masks = []
    for text, offsets in zip(texts, encoded["offset_mapping"], strict=True):
        starts = np.array([start for start, _ in offsets])
        mask = np.zeros(len(starts), dtype=bool)
        for turn in MODEL_TURN.finditer(text):
            mask |= (starts >= turn.start(1)) & (starts < turn.end(1))
        masks.append(mask)
    return padded(encoded["input_ids"], masks, int(tokenizer.pad_token_id))


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
    num_tokens = float(measured.loss_mask.sum()) / len(measured.loss_mask)
    batches = Batches(
        spec.solver("train"),
        lambda traces: make_batch(tokenizer, traces),
        spec.warm_start_horizons,
        spec.batch_tokens,
        spec.seed,
        spec.num_short_steps,
    )

    def tell(state: State) -> None:
        report(state.step, state.loss, state.success)

    ending = imitate(
        Imitation(model, Schedule(spec.learning_rate, spec.target_success, spec.max_steps, max_seconds)),
        batches.draw,
        lambda: measure_success(model, measured),
        halving,
        # Measuring costs as much as several steps: not before the training loss makes success likely.
        worth_measuring=lambda loss: loss * num_tokens < HOPELESS_NATS,
        report=tell,
    )
    if ending.reached:
        return WarmStart(ending.num_steps, measure_success(model, measured))
    wanted = f"{spec.target_success} was wanted" if spec.target_success else f"{spec.max_steps} steps were wanted"
    raise WarmStartFailed(
        f"the warm start of the nano model on {spec.env_id} reached {ending.success:.2f} success at horizon "
        f"{spec.horizon} in {ending.num_steps} steps and {time.monotonic() - started:.0f} s; {wanted}",
        f"allow more than max_seconds={max_seconds:.0f}" if ending.num_steps < spec.max_steps else _remedy(spec),
    )


def _remedy(spec: NanoSpec) -> str:
    return (
        f"measure at an easier horizon (env.nano.horizon=1), take more steps (env.nano.max_steps={2 * spec.max_steps}) "
        f"or a model of your own (model=hub); env.nano.target_success=0 imitates for {spec.max_steps} steps and "
        "lets RL begin from whatever that gives"
    )
