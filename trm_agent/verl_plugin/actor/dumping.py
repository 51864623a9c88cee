"""Collect the rows of a dump from the micro-batches of an update."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict

from trm_agent.core.token_batch import DivergenceBounds
from trm_agent.trust_region.dump import task_of_prompt, write_dump
from trm_agent.verl_plugin.actor.update import Update
from trm_agent.verl_plugin.rollout.distributions import (
    EPISODE_RECORD,
    FULL_LOG_PROBS,
    KEPT_IDS,
    KEPT_LOG_PROBS,
    TOP_IDS,
    TOP_LOG_PROBS,
    record_of,
)
from trm_agent.verl_plugin.rollout.versions import ROLLOUT_VERSIONS


def is_due(update: Update) -> bool:
    """Return True if sequences of the update are dumped."""
    return update.dump is not None


def wants_distributions(update: Update) -> bool:
    """Return True if the dump holds both whole distributions of each token."""
    return update.dump is not None and update.dump.distributions


def collect_rows(
    update: Update,
    data: TensorDict,
    log_probs: torch.Tensor,
    divergences: DivergenceBounds | None,
    full_log_probs: torch.Tensor | None,
) -> None:
    """Append the sequences of a micro-batch whose tasks are dumped.

    Args:
        update: with the statistics of this micro-batch as its last part.
        data: verl's micro-batch, nested.
        log_probs: policy in training, shape (batch, response_length), nats.
        divergences: those of the engine, same shape; None with sampled estimators.
        full_log_probs: the policy's whole distributions at the sampled tokens, shape (sampled tokens, vocab), or None.
    """
    assert update.dump is not None, "is_due was asked"
    sequences = update.parts[-1].sequences
    accepted = sequences.accepted.tolist()
    rejected_by = {name: rejected.tolist() for name, rejected in sequences.rejected_by.items()}
    columns = {name: _rows(data, name) for name in ("prompts", "responses", "response_mask", "advantages")}
    rollout = _rows(data, "rollout_log_probs" if "rollout_log_probs" in data else "old_log_probs")
    rewards = [float(row.sum()) for row in _rows(data, "rm_scores")] if "rm_scores" in data else None
    records = _rows(data, EPISODE_RECORD) if EPISODE_RECORD in data else None
    versions = _rows(data, ROLLOUT_VERSIONS) if ROLLOUT_VERSIONS in data else None
    recorded = [data[name].unbind() for name in _distributions_in(data)]
    rollout_full = _whole_rows(data) if full_log_probs is not None else None
    start = 0
    for index, mask in enumerate(columns["response_mask"]):
        mask = mask.bool()
        length, num_sampled = len(mask), int(mask.sum())
        if num_sampled == 0:
            continue
        record = record_of(records[index]) if records else None
        prompt_ids = columns["prompts"][index].tolist()
        task = json.loads(record)["task"] if record else task_of_prompt(prompt_ids)
        start += num_sampled
        if update.tasks is not None and task not in update.tasks:
            continue
        row: dict[str, Any] = {
            "step": update.step,
            "update": update.number,
            "reward": rewards[index] if rewards else None,
            "accepted": accepted[index],
            "rejected_by": [name for name, rejected in rejected_by.items() if rejected[index]],
            "task": task,
            "prompt_ids": prompt_ids,
            "response_ids": columns["responses"][index].tolist(),
            "response_mask": mask.tolist(),
            "log_probs": _sampled(log_probs[index, :length], mask),
            "rollout_log_probs": _sampled(rollout[index], mask),
            "advantages": _sampled(columns["advantages"][index], mask),
            "rollout_versions": versions[index].tolist() if versions else None,
            "episode": record,
        }
        if recorded:
            ids, values = _most_likely([rows[index] for rows in recorded])
            row["rollout_top_ids"] = torch.where(mask, ids, -1).tolist()
            row["rollout_top_log_probs"] = _sampled(values, mask)
        if divergences is not None:
            row |= {name: _sampled(values[index, :length], mask) for name, values in divergences.named().items()}
        if full_log_probs is not None:
            assert rollout_full is not None
            row["vocab_size"] = full_log_probs.shape[-1]
            row["full_log_probs"] = _bytes(full_log_probs[start - num_sampled : start])
            row["rollout_full_log_probs"] = _bytes(rollout_full(index, mask, full_log_probs.shape[-1]))
        update.rows.append(row)


def write_rows(update: Update, rank: int) -> None:
    """Write the collected rows, one file for this rank's part of the update."""
    if update.rows:
        assert update.dump is not None, "rows come from our loss"
        assert update.trm is not None, "and so do its settings"
        name = f"step_{update.step:06d}.update_{update.number:03d}.rank_{rank:03d}"
        write_dump(update.dump, update.rows, asdict(update.trm), name)


def _distributions_in(data: TensorDict) -> tuple[str, ...]:
    fields = (TOP_IDS, TOP_LOG_PROBS), (KEPT_IDS, KEPT_LOG_PROBS), (FULL_LOG_PROBS,)
    return next((names for names in fields if names[0] in data), ())


def _most_likely(recorded: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return id and log-prob of each response token's most likely alternative, which the rollout recorded first."""
    if len(recorded) == 1:
        values, ids = recorded[0].max(dim=-1)
    else:
        ids, values = (each[:, 0] for each in recorded)
    return ids.cpu(), values.cpu()


def _rows(data: TensorDict, name: str) -> list[torch.Tensor]:
    return [row.detach().cpu() for row in data[name].unbind()]


def _whole_rows(data: TensorDict) -> Callable[[int, torch.Tensor, int], torch.Tensor]:
    """Return a function of a sequence's number, its mask and the vocabulary's size.

    It returns the rollout's distributions at the sampled tokens over the vocabulary, -infinity off a kept set.
    """
    if FULL_LOG_PROBS in data:
        full = _rows(data, FULL_LOG_PROBS)
        return lambda index, mask, vocab: full[index][mask]
    kept_ids, kept_log_probs = _rows(data, KEPT_IDS), _rows(data, KEPT_LOG_PROBS)

    def whole(index: int, mask: torch.Tensor, vocab: int) -> torch.Tensor:
        ids, log_probs = kept_ids[index][mask], kept_log_probs[index][mask]
        # the last column takes the filler
        ids = ids.masked_fill(log_probs == -torch.inf, vocab)
        return log_probs.new_full((len(ids), vocab + 1), -torch.inf).scatter(1, ids, log_probs)[:, :vocab]

    return whole


def _sampled(values: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    return torch.where(mask, values.detach().cpu().float(), torch.nan).numpy()


def _bytes(values: torch.Tensor) -> bytes:
    return values.detach().cpu().float().numpy().tobytes()
