"""Collect the rows of a dump from the micro-batches of an update."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict

from trm_agent.core.token_batch import DivergenceBounds
from trm_agent.trust_region.dump import write_dump
from trm_agent.verl_plugin.actor.update import Update
from trm_agent.verl_plugin.rollout.distributions import EPISODE_RECORD, FULL_LOG_PROBS, record_of


def is_due(update: Update) -> bool:
    """Return True if the update's sequences are dumped and there is room for more of them."""
    return update.dump is not None and len(update.rows) < update.dump.max_sequences


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
    """Append the sequences of a micro-batch, as many as there is room for.

    Args:
        update: with the statistics of this micro-batch as its last part.
        data: verl's micro-batch, nested.
        log_probs: policy in training, shape (batch, response_length), nats.
        divergences: those of the engine, same shape; None with sampled estimators.
        full_log_probs: the policy's whole distributions at the sampled tokens, shape (sampled tokens, vocab), or None.
    """
    assert update.dump is not None, "is_due was asked"
    accepted = update.parts[-1].sequences.accepted.tolist()
    columns = {name: _rows(data, name) for name in ("prompts", "responses", "response_mask", "advantages")}
    rollout = _rows(data, "rollout_log_probs" if "rollout_log_probs" in data else "old_log_probs")
    rewards = [float(row.sum()) for row in _rows(data, "rm_scores")] if "rm_scores" in data else None
    records = _rows(data, EPISODE_RECORD) if EPISODE_RECORD in data else None
    start = 0
    for index, mask in enumerate(columns["response_mask"]):
        mask = mask.bool()
        length, num_sampled = len(mask), int(mask.sum())
        if len(update.rows) == update.dump.max_sequences:
            return
        if num_sampled == 0:
            continue
        row: dict[str, Any] = {
            "step": update.step,
            "update": update.number,
            "reward": rewards[index] if rewards else None,
            "accepted": accepted[index],
            "prompt_ids": columns["prompts"][index].tolist(),
            "response_ids": columns["responses"][index].tolist(),
            "response_mask": mask.tolist(),
            "log_probs": _sampled(log_probs[index, :length], mask),
            "rollout_log_probs": _sampled(rollout[index], mask),
            "advantages": _sampled(columns["advantages"][index], mask),
            "episode": record_of(records[index]) if records else None,
        }
        if divergences is not None:
            row |= {name: _sampled(values[index, :length], mask) for name, values in divergences.named().items()}
        if full_log_probs is not None:
            rollout_full = _rows(data, FULL_LOG_PROBS)[index][mask]
            row["vocab_size"] = full_log_probs.shape[-1]
            row["full_log_probs"] = _bytes(full_log_probs[start : start + num_sampled])
            row["rollout_full_log_probs"] = _bytes(rollout_full)
        start += num_sampled
        update.rows.append(row)


def write_rows(update: Update, rank: int) -> None:
    """Write the collected rows, one file for this rank's part of the update."""
    if update.rows:
        assert update.dump is not None, "rows come from our loss"
        assert update.trm is not None, "and so do its settings"
        name = f"step_{update.step:06d}.update_{update.number:03d}.rank_{rank:03d}"
        write_dump(update.dump, update.rows, asdict(update.trm), name)


def _rows(data: TensorDict, name: str) -> list[torch.Tensor]:
    return [row.detach().cpu() for row in data[name].unbind()]


def _sampled(values: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    return torch.where(mask, values.detach().cpu().float(), torch.nan).numpy()


def _bytes(values: torch.Tensor) -> bytes:
    return values.detach().cpu().float().numpy().tobytes()
