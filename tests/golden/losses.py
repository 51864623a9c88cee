"""The loss, the mask, the metrics and the gradient of a stored batch, through the policy loss that verl calls."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.utils import tensordict_utils as tu
from verl.workers.utils.padding import no_padding_2_padding

from tests.golden import loss_batch
from tests.verl_plugin.loss_support import MicroBatch, actor_config, collect_update, set_micro_batch, through_verl
from trm_agent.core.masks import random_mask
from trm_agent.trust_region.settings import TrmConfig
from trm_agent.verl_plugin.actor.divergences import rollout_divergences
from trm_agent.verl_plugin.rollout.distributions import FULL_LOG_PROBS, TOP_IDS, TOP_LOG_PROBS

# a criterion that came later has no past
CRITERIA = ("max", "avg", "both", "ln", "ser", "random", "token", "prefix")
PROMPT_LENGTH = 2
# rows of the two micro-batches of the update
MICRO_BATCHES = (slice(0, 4), slice(4, None))


@dataclass(frozen=True)
class Case:
    """One computation of the loss."""

    batch: str
    """`long` or `measured`."""
    trm: TrmConfig
    mode: str = "seq-mean-token-sum-norm"
    """verl's aggregation."""
    adapted: float | None = None
    """The adaptive max_token_kl of the step."""


def cases() -> dict[str, Case]:
    """Every criterion with every estimator and with both kinds of ratio, and a few settings beside them."""
    found = {}
    for criterion, decoupled in itertools.product(CRITERIA, (False, True)):
        trm = TrmConfig(criterion=criterion, decoupled=decoupled, random_acceptance=0.5, top_k=loss_batch.TOP_K)
        name = f"{criterion}{' decoupled' if decoupled else ''}"
        found[f"long sampled {name}"] = Case("long", trm)
        for estimator in ("sampled", "topk", "exact"):
            found[f"measured {estimator} {name}"] = Case("measured", replace(trm, estimator=estimator))
    both = TrmConfig(criterion="both", max_token_kl=0.02, avg_token_kl=0.004, top_k=loss_batch.TOP_K)
    found["measured topk both accept"] = Case("measured", replace(both, estimator="topk", undecided="accept"))
    found["long sampled max truncated"] = Case("long", TrmConfig(max_token_kl=10.0, ratio_truncation=1.5))
    found["long sampled both token-mean"] = Case("long", both, mode="token-mean")
    found["long sampled max adapted"] = Case("long", TrmConfig(target_acceptance=0.7), adapted=0.2)
    found["long sampled max k3"] = Case("long", TrmConfig(max_estimator="k3", avg_estimator="abs_log_ratio"))
    return found


def as_table(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Results with the names of the metrics in one list, and each case's metrics as a text of so many numbers."""
    names = sorted({name for result in results.values() for name in result["metrics"]})
    rows = {
        case: {**result, "metrics": " ".join(result["metrics"].get(name, "-") for name in names)}
        for case, result in results.items()
    }
    return {"metrics": names, "results": rows}


def from_table(table: dict[str, Any], case: str) -> dict[str, Any]:
    """One result of `as_table` as `compute` gave it."""
    result = table["results"][case]
    pairs = zip(table["metrics"], result["metrics"].split(), strict=True)
    return {**result, "metrics": {name: value for name, value in pairs if value != "-"}}


def compute(stored: dict[str, Any], case: Case) -> dict[str, Any]:
    """Compute a case on one thread, whatever the process has.

    Returns:
        `loss` and `metrics` as hexadecimal floats; `accepted` and `tokens`: sequences in the update, and the number of
        tokens of each that have a gradient; `gradient`: its digest; `sums`: its sum over each sequence.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        return _compute(loss_batch.read(stored[case.batch]), case)
    finally:
        torch.set_num_threads(threads)


def _compute(arrays: dict[str, np.ndarray], case: Case) -> dict[str, Any]:
    lengths = arrays["lengths"].tolist()
    mask = _padded(arrays["mask"], lengths).bool()
    info = {
        "dp_size": 1,
        "batch_num_tokens": int(mask.sum()),
        "global_batch_size": len(lengths),
        "loss_scale_factor": 64,
    }
    config = actor_config(case.trm, **info)
    policy = _padded(arrays["policy"], lengths).requires_grad_()
    rollout, proximal, advantages = (_padded(arrays[name], lengths) for name in ("rollout", "proximal", "advantages"))
    loss_of, total = get_policy_loss_fn("trm"), torch.zeros(())
    with collect_update() as update:
        for rows in MICRO_BATCHES:
            set_micro_batch(_from_the_engine(arrays, lengths, rows, case, rollout[rows]))
            loss, left = loss_of(
                old_log_prob=proximal[rows] if case.trm.decoupled else rollout[rows],
                log_prob=policy[rows],
                advantages=advantages[rows],
                response_mask=mask[rows],
                loss_agg_mode=case.mode,
                config=config,
            )
            assert left == {}
            loss.backward()
            total = total + loss.detach()
    assert policy.grad is not None
    assert all((row[length:] == 0).all() for row, length in zip(policy.grad, lengths, strict=True))
    accepted = torch.cat([part.sequences.accepted for part in update.parts])
    return {
        "loss": as_hex(total),
        "accepted": "".join("01"[bool(each)] for each in accepted),
        "tokens": (policy.grad != 0).sum(dim=-1).tolist(),
        "gradient": hashlib.sha256(policy.grad.numpy().astype("<f4").tobytes()).hexdigest()[:24],
        "sums": [as_hex(row) for row in policy.grad.double().sum(dim=-1)],
        "metrics": {name: as_hex(value) for name, value in through_verl([update]).items()},
    }


def as_hex(value: Any) -> str:
    """A number, bit for bit, without zeros at its end."""
    return re.sub(r"\.?0+p", "p", float(value).hex())


def _from_the_engine(
    arrays: dict[str, np.ndarray], lengths: list[int], rows: slice, case: Case, rollout: torch.Tensor
) -> MicroBatch:
    """Do what our engine does around the loss: measure the logits, and leave what it knows of the micro-batch."""
    adapted = {} if case.adapted is None else {"max_token_kl": case.adapted}
    of_rows = torch.ones(len(rollout), dtype=torch.bool)
    decided = random_mask(of_rows, case.trm.random_acceptance).accepted if case.trm.decides_on_whole_batch else None
    if case.trm.estimator == "sampled":
        return MicroBatch(None, rollout, adapted, decided=decided)
    logits, data = _as_verl_packs(arrays, lengths, rows, case.trm.estimator)

    def placed(values: torch.Tensor) -> torch.Tensor:
        padded = no_padding_2_padding(values, data)
        return torch.nn.functional.pad(padded, (0, rollout.shape[1] - padded.shape[1]))

    return MicroBatch(rollout_divergences(logits, data).map(placed), rollout, adapted, decided=decided)


def _as_verl_packs(
    arrays: dict[str, np.ndarray], lengths: list[int], rows: slice, estimator: str
) -> tuple[torch.Tensor, TensorDict]:
    """The packed logits of some rows, and verl's micro-batch with the distributions of the rollout."""
    fields: dict[str, list[torch.Tensor]] = {
        name: [] for name in ("prompts", "responses", "response_mask", "input_ids")
    }
    logits = []
    for part in list(_parts(lengths))[rows]:
        tokens = torch.from_numpy(arrays["tokens"][part]).long()
        prompt = torch.ones(PROMPT_LENGTH, dtype=torch.long)
        full = torch.from_numpy(arrays["full"].reshape(-1, loss_batch.VOCAB)[part])
        if estimator == "exact":
            recorded = {FULL_LOG_PROBS: full}
        else:
            largest = full.topk(loss_batch.TOP_K)
            recorded = {TOP_IDS: largest.indices, TOP_LOG_PROBS: largest.values}
        mask = torch.from_numpy(arrays["mask"][part])
        whole = {
            "prompts": prompt,
            "responses": tokens,
            "response_mask": mask,
            "input_ids": torch.cat([prompt, tokens]),
        }
        for name, values in {**whole, **recorded}.items():
            fields.setdefault(name, []).append(values)
        # the logits of a token stand one before it, behind those of the prompt
        of_row = torch.from_numpy(arrays["logits"].reshape(-1, loss_batch.VOCAB)[part])
        zeros = torch.zeros(PROMPT_LENGTH - 1, loss_batch.VOCAB), torch.zeros(1, loss_batch.VOCAB)
        logits.append(torch.cat([zeros[0], of_row, zeros[1]]))
    nested = {name: torch.nested.as_nested_tensor(values, layout=torch.jagged) for name, values in fields.items()}
    data = TensorDict(nested, [len(logits)])
    tu.assign_non_tensor(data, temperature=1.0)
    tu.assign_non_tensor(data, use_remove_padding=True)
    return torch.cat(logits).unsqueeze(0), data


def _padded(values: np.ndarray, lengths: list[int]) -> torch.Tensor:
    result = torch.zeros(len(lengths), max(lengths), dtype=torch.from_numpy(values).dtype)
    for row, part in enumerate(_parts(lengths)):
        result[row, : lengths[row]] = torch.from_numpy(values[part])
    return result


def _parts(lengths: list[int]) -> Iterator[slice]:
    start = 0
    for length in lengths:
        yield slice(start, start + length)
        start += length
