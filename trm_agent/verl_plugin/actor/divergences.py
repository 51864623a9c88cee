"""The actor's side: divergences between the rollout's recorded distributions and the logits of the forward pass."""

from collections.abc import Iterator
from typing import Any

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

from trm_agent.core.exact import exact_divergences
from trm_agent.core.intervals import topk_intervals
from trm_agent.core.kept_set import is_cut, kept_divergences, kept_logits
from trm_agent.core.token_batch import DivergenceBounds
from trm_agent.verl_plugin.actor.shard import Shard
from trm_agent.verl_plugin.rollout.distributions import (
    FULL_LOG_PROBS,
    KEPT_IDS,
    KEPT_LOG_PROBS,
    TOP_IDS,
    TOP_LOG_PROBS,
)
from trm_agent.verl_plugin.rollout.versions import NOT_SAMPLED, ROLLOUT_VERSIONS

# number of logits that are gathered at a time, so that a second [tokens, vocab] tensor never exists
CHUNK_ELEMENTS = 2**22


def has_distributions(micro_batch: TensorDict) -> bool:
    """Return True if the agent loop recorded more than the sampled tokens' log-probs."""
    return any(name in micro_batch for name in (FULL_LOG_PROBS, TOP_IDS, KEPT_IDS))


@torch.no_grad()
def rollout_divergences(
    logits: Any, micro_batch: TensorDict, only_sampled: bool = False, shard: Shard | None = None
) -> DivergenceBounds:
    """Measure KL(roll || theta) and the total variation of every token that the model sampled.

    Args:
        logits: of verl's forward pass, not yet divided by the temperature: shape (1, tokens, vocab) with
            remove-padding, (batch, length, vocab) without.
        micro_batch: verl's micro-batch with nested (jagged) `input_ids`, `responses`, `response_mask` and the
            distributions that the agent loop added.
        only_sampled: the logits are those of `predicting_rows` alone, shape (1, sampled tokens, vocab).
        shard: the part of the row that this rank has logits of; None for all of it. Every rank returns all tokens.

    Returns:
        Shape (tokens,) in the layout of verl's log-probs, where entry j belongs to token j + 1; 0 elsewhere. `lower`
        equals `upper` for whole distributions, and for kept sets but where one may have been cut: there nothing is
        known, from 0 to infinity and 1.
    """
    rows, held, scaled_logits = _sampled_logits(logits, micro_batch, only_sampled, shard)
    recorded = {
        name: sampled_rows(micro_batch[name], micro_batch)[held]
        for name in (FULL_LOG_PROBS, TOP_IDS, TOP_LOG_PROBS, KEPT_IDS, KEPT_LOG_PROBS)
        if name in micro_batch
    }
    measured = torch.zeros(4, len(micro_batch["input_ids"].values()), device=logits.device)
    for part, chunk in scaled_logits:
        measured[:, rows[held][part]] = _measure(chunk, {name: values[part] for name, values in recorded.items()})
    return DivergenceBounds(*(measured if shard is None else shard.sum(measured)))


def sampled_rows(values: Any, micro_batch: TensorDict) -> torch.Tensor:
    """Take the rows of the tokens that the model sampled.

    verl fills up a batch that lacks episodes with sequences of one unsampled token, and leaves the agent loop's fields
    as long as in the sequence that they were copied from.

    Args:
        values: nested (jagged), a row for each response token.
        micro_batch: see `rollout_divergences`.
    """
    sequence, within = _sampled_positions(micro_batch)
    return values.values()[values.offsets()[:-1][sequence] + within]


def version_lags(micro_batch: TensorDict, step: int) -> torch.Tensor | None:
    """Count the versions between the policy that sampled each token and the one that the step began with.

    Args:
        micro_batch: see `rollout_divergences`; with the versions that the agent loop recorded, if it did.
        step: of the run, which began with version `step` - 1.

    Returns:
        int32, shape (batch, response_length), -1 on tokens that the model did not sample; None without versions.
    """
    if ROLLOUT_VERSIONS not in micro_batch:
        return None
    mask = micro_batch["response_mask"].to_padded_tensor(0).bool()
    lags = torch.full(mask.shape, NOT_SAMPLED, dtype=torch.int32, device=mask.device)
    lags[mask] = step - 1 - sampled_rows(micro_batch[ROLLOUT_VERSIONS], micro_batch).int()
    return lags


def prompt_lengths(micro_batch: TensorDict) -> torch.Tensor:
    """Count the tokens before each response, shape (batch,)."""
    return micro_batch["input_ids"].offsets().diff() - micro_batch["responses"].offsets().diff()


@torch.no_grad()
def policy_log_probs(
    logits: Any, micro_batch: TensorDict, only_sampled: bool = False, shard: Shard | None = None
) -> torch.Tensor:
    """Normalise the logits of every token that the model sampled.

    Args:
        logits: see `rollout_divergences`.
        micro_batch, only_sampled, shard: see `rollout_divergences`.

    Returns:
        Shape (sampled tokens, vocab), nats, float32, sequence after sequence.
    """
    rows, held, scaled_logits = _sampled_logits(logits, micro_batch, only_sampled, shard)
    found = logits.new_zeros(len(rows), logits.shape[-1], dtype=torch.float32)
    for part, chunk in scaled_logits:
        found[held][part] = chunk.log_softmax(dim=-1)
    return found if shard is None else shard.sum(found)


def _sampled_logits(
    logits: Any, micro_batch: TensorDict, only_sampled: bool, shard: Shard | None
) -> tuple[torch.Tensor, slice, Iterator[tuple[slice, torch.Tensor]]]:
    """Find the logits of sampled tokens.

    Returns:
        The packed positions that predicted the sampled tokens; which of them this rank has logits of; slices of these,
        with their scaled logits.
    """
    rows, held, scale, source, flat = predicted_logits(logits, micro_batch, only_sampled, shard)
    size = max(1, CHUNK_ELEMENTS // flat.shape[-1])
    parts = (slice(start, start + size) for start in range(0, len(scale), size))
    scaled = ((part, flat.index_select(0, source[part]).float() / scale[part].unsqueeze(-1)) for part in parts)
    return rows, held, scaled


def predicted_logits(
    logits: Any, micro_batch: TensorDict, only_sampled: bool, shard: Shard | None = None
) -> tuple[torch.Tensor, slice, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Find the logits of sampled tokens, without a copy of them.

    Returns:
        The packed positions that predicted the sampled tokens; which of them this rank has logits of; of these the
        temperatures, and their rows in the last, the logits of shape (rows, vocab).
    """
    offsets = micro_batch["input_ids"].offsets()
    rows, sequence = predicting_rows(micro_batch)
    held = slice(0, len(rows)) if shard is None else shard.held(rows)
    scale = _temperatures(micro_batch, sequence)[held]
    use_remove_padding = tu.get_non_tensor_data(data=micro_batch, key="use_remove_padding", default=True)
    if only_sampled:
        source = torch.arange(len(scale), device=rows.device)
    elif use_remove_padding:
        source = rows[held] - (0 if shard is None else shard.first)
    else:
        source = sequence * logits.shape[1] + rows - offsets[:-1][sequence]
    return rows, held, scale, source, logits.flatten(0, 1)


def _measure(logits: torch.Tensor, recorded: dict[str, torch.Tensor]) -> torch.Tensor:
    if FULL_LOG_PROBS in recorded:
        exact = exact_divergences(recorded[FULL_LOG_PROBS], logits)
        return torch.stack([exact.kl, exact.kl, exact.tv, exact.tv]).float()
    if KEPT_IDS in recorded:
        ids, log_probs = recorded[KEPT_IDS], recorded[KEPT_LOG_PROBS]
        kept = kept_divergences(log_probs, kept_logits(logits, ids, log_probs))
        known = torch.stack([kept.kl, kept.kl, kept.tv, kept.tv]).float()
        unknown = known.new_tensor([0.0, torch.inf, 0.0, 1.0]).unsqueeze(-1)
        return torch.where(is_cut(log_probs, logits.shape[-1]), unknown, known)
    interval = topk_intervals(recorded[TOP_IDS], recorded[TOP_LOG_PROBS], logits)
    bounds = torch.stack([interval.kl_lower, interval.kl_upper, interval.tv_lower, interval.tv_upper]).float()
    # outwards to the next float32, so that rounding the float64 bounds keeps them certified
    outwards = bounds.new_tensor([[-torch.inf], [torch.inf]]).repeat(2, 1)
    return torch.nextafter(bounds, outwards.expand_as(bounds)).clamp(min=0)


def predicting_rows(micro_batch: TensorDict) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for each sampled token the packed position that predicted it, and the number of its sequence."""
    offsets = micro_batch["input_ids"].offsets()
    sequence, within = _sampled_positions(micro_batch)
    first = offsets[1:] - micro_batch["responses"].offsets().diff() - 1
    return first[sequence] + within, sequence


def _sampled_positions(micro_batch: TensorDict) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for each sampled token the number of its sequence, and its place in the response."""
    responses = micro_batch["responses"].offsets()
    lengths = responses.diff()
    sequence = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    within = torch.arange(len(sequence), device=lengths.device) - responses[:-1][sequence]
    sampled = micro_batch["response_mask"].values().bool()
    return sequence[sampled], within[sampled]


def _temperatures(micro_batch: TensorDict, sequence: torch.Tensor) -> torch.Tensor:
    temperature = micro_batch["temperature"]
    if isinstance(temperature, torch.Tensor):
        return temperature.to(sequence.device, torch.float32)[sequence]
    return torch.full((len(sequence),), float(temperature), device=sequence.device)
