"""Decisions on all sequences of an update, before its first micro-batch: of the criteria that need them all at once.

They are the same however the update is split into micro-batches and ranks: every rank gathers one row a sequence, puts
the rows into an order of their contents, decides, and takes its own.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.workers.utils.losses import ppo_loss

from trm_agent.core.controls import Sequences
from trm_agent.core.divergences import masked_log_ratio
from trm_agent.core.token_batch import TokenBatch
from trm_agent.trust_region.criteria import CRITERIA
from trm_agent.trust_region.masking import decide
from trm_agent.trust_region.settings import TrmConfig
from trm_agent.trust_region.surroundings import LOSS_MODE
from trm_agent.verl_plugin.actor.update import PAIRED_KEY, SEED_KEY

# key of the batch: the decisions
DECIDED_KEY = "trm_decided"


@dataclass(frozen=True, order=True)
class Row:
    """What the ranks exchange of a sequence."""

    content: str
    """Digest of its tokens and of their log-probs."""
    length: int
    """Tokens of the model."""
    sign: int
    """Sign of its advantage."""
    accepted: bool
    """Decision of the criterion that is controlled."""


def add_decisions(data: TensorDict, loss_function: Any, group: Any, step: int, number: int) -> None:
    """Decide on the sequences of an update, if the criterion of the loss needs them all.

    Args:
        data: this rank's part of the update, nested; it gets the decisions, bool, shape (batch,).
        loss_function: as verl's worker gives it to the engine.
        group: the data-parallel group of torch.distributed.
        step: of the run.
        number: number of the update in its step.
    """
    trm = _settings_of(loss_function)
    if trm is None or not trm.decides_on_whole_batch:
        return
    gathered: list[Any] = [None] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(gathered, _rows(data, trm), group=group)
    paired = json.loads(tu.get_non_tensor_data(data, PAIRED_KEY, "[]"))
    assert not paired or number < len(paired), "the driver has counted the step's updates"
    rows = [row for of_rank in gathered for row in of_rank]
    seed = seed_of_update(tu.get_non_tensor_data(data, SEED_KEY, 0), step, number)
    stays = decided_rows(trm, rows, paired[number] if paired else (), seed)
    rank = torch.distributed.get_rank(group)
    first = sum(len(of_rank) for of_rank in gathered[:rank])
    decided = torch.tensor(stays[first : first + len(gathered[rank])])
    data[DECIDED_KEY] = decided.to(data["response_mask"].values().device)


def seed_of_update(seed: int, step: int, number: int) -> int:
    """Return the seed of an update's decisions, which a resumed run has again and another run has not.

    Args:
        seed: of the run.
        step: of the run.
        number: number of the update in its step.
    """
    # torch's generator on a CPU takes the last 32 bits
    return int.from_bytes(hashlib.sha256(f"{seed} {step} {number}".encode()).digest()[:4], "big")


def decided_rows(trm: TrmConfig, rows: Sequence[Row], paired_acceptance: Sequence[float], seed: int) -> list[bool]:
    """Decide on the sequences of an update.

    Args:
        trm: the settings, with a criterion that decides on whole updates.
        rows: of all sequences, in any order: only among equal rows, which are one sequence, does it decide who stays.
        paired_acceptance: in this update, of the quarters of the lengths from the shortest on; empty without a paired
            run.
        seed: of the random numbers.

    Returns:
        True for each row that stays; False for one without a token of the model.
    """
    criterion = CRITERIA[trm.criterion]
    assert criterion.whole_batch is not None, f"{trm.criterion} decides on single sequences"
    assert paired_acceptance or not trm.needs_paired_run, "the driver names the acceptance of the paired run"
    order = sorted((place for place, row in enumerate(rows) if row.length), key=lambda place: rows[place])
    sequences = Sequences(
        torch.tensor([rows[place].length for place in order], dtype=torch.int64),
        torch.tensor([rows[place].sign for place in order], dtype=torch.int64),
        torch.tensor([rows[place].accepted for place in order], dtype=torch.bool),
        paired_acceptance,
    )
    thresholds = {item.name: getattr(trm, item.name) for item in criterion.thresholds}
    kept = criterion.whole_batch(sequences, torch.Generator().manual_seed(seed), **thresholds)
    stays = [False] * len(rows)
    for place, stays_there in zip(order, kept.tolist(), strict=True):
        stays[place] = stays_there
    return stays


def _settings_of(loss_function: Any) -> TrmConfig | None:
    if getattr(loss_function, "func", None) is not ppo_loss:
        return None
    policy_loss = loss_function.keywords["config"].policy_loss
    if policy_loss.get("loss_mode") != LOSS_MODE:
        return None
    trm = policy_loss.get("trm", None)
    return trm if isinstance(trm, TrmConfig) else None


def _rows(data: TensorDict, trm: TrmConfig) -> list[Row]:
    mask = data["response_mask"].to_padded_tensor(0).bool()
    advantages = _padded(data, "advantages")
    signs = torch.where(mask, advantages, 0.0).sum(dim=-1).sign().long().tolist()
    accepted = [True] * len(signs) if trm.compared == trm.criterion else _accepted(data, trm, mask, advantages)
    digests = [
        hashlib.sha256(ids.cpu().numpy().tobytes() + values.cpu().numpy().tobytes()).hexdigest()
        for ids, values in zip(data["input_ids"].unbind(), _log_probs(data).unbind(), strict=True)
    ]
    return [Row(*row) for row in zip(digests, mask.sum(dim=-1).tolist(), signs, accepted, strict=True)]


def _accepted(data: TensorDict, trm: TrmConfig, mask: torch.Tensor, advantages: torch.Tensor) -> list[bool]:
    """Decide by the criterion that is controlled, from the log-probs of the start of the step."""
    rollout = _padded(data, "rollout_log_probs")
    log_ratio = masked_log_ratio(_padded(data, "old_log_probs"), rollout, mask)
    batch = TokenBatch(log_ratio, rollout, advantages, mask, start_log_ratio=log_ratio)
    controlled = replace(trm, criterion=trm.compared)
    return decide(controlled, batch).any(dim=-1).tolist()


def _padded(data: TensorDict, name: str) -> torch.Tensor:
    values = data[name]
    return values.to_padded_tensor(0.0) if values.is_nested else values


def _log_probs(data: TensorDict) -> torch.Tensor:
    return data["rollout_log_probs" if "rollout_log_probs" in data else "old_log_probs"]
