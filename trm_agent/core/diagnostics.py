"""What every sequence of a batch says about the trust region; the host waits for no number but that of the turns."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import torch

from trm_agent.core.block_sums import BlockSums, block_sums, largest
from trm_agent.core.bound_sums import bound_sums
from trm_agent.core.by_depth import depth_statistics
from trm_agent.core.by_sign import sign_statistics
from trm_agent.core.effective_sizes import weight_statistics
from trm_agent.core.known import KnownDivergences, kl_sums, known_divergences
from trm_agent.core.lags import lag_statistics
from trm_agent.core.losses import kept_tokens
from trm_agent.core.masks import Interval, SequenceMask
from trm_agent.core.reductions import count, rows_where
from trm_agent.core.token_batch import TokenBatch
from trm_agent.core.turns import find_turns, turns_inside

FIRST_TURNS = (1, *(2**octave + 1 for octave in range(14)))
"""Turns are binned by octaves, from these on: 1, 2, 3-4, 5-8, ..., 8193 and beyond."""
NUM_TURN_BINS = len(FIRST_TURNS)


@dataclass(frozen=True)
class SequenceStatistics:
    """One row a sequence, padding included (`has_tokens` False). Shape (batch,) unless it says otherwise."""

    has_tokens: torch.Tensor
    """bool: at least one token of the model."""
    accepted: torch.Tensor
    """bool: what the mask said."""
    undecided: torch.Tensor
    """bool: what the rule for the undecided decided, see `SequenceMask`."""
    rejected_by: dict[str, torch.Tensor]
    """Criterion -> bool."""
    decided_by: dict[str, torch.Tensor]
    """Criterion -> what was compared with its threshold; empty without one."""
    num_tokens: torch.Tensor
    """T: tokens of the model."""
    num_kept_tokens: torch.Tensor
    """Tokens with a gradient: T or 0 under a sequence mask, anything between under a token mask."""
    num_truncated_tokens: torch.Tensor
    """Tokens whose weight the loss truncates if they are kept."""
    num_undecided_tokens: torch.Tensor
    """Tokens on which that rule decided; under a mask of sequences those whose interval of kl_for_max holds the
    threshold."""
    num_known_tokens: torch.Tensor
    """Tokens whose divergence has an upper bound: T, but where kept sets may be cut."""
    num_turns: torch.Tensor
    """Runs of tokens of the model."""
    max_kl: torch.Tensor
    """max_t of kl_for_max, upper bound, nats."""
    max_known_kl: torch.Tensor
    """The same over the tokens that have an upper bound."""
    sum_kl: torch.Tensor
    """sum_t of kl_for_avg, upper bound, over the tokens that have one, nats."""
    max_tv: torch.Tensor
    """max_t of tv, upper bound."""
    sum_tv: torch.Tensor
    """sum_t of tv, upper bound, over the same tokens."""
    sum_k3: torch.Tensor
    """sum_t rho - 1 - log rho, nats: summed token by token, since the difference of the sums would cancel."""
    mean_log_ratio: torch.Tensor
    """(1/T) sum_t log rho, nats."""
    min_log_ratio: torch.Tensor
    """min_t log rho, nats, at most 0: rho = 1 counts with and without padding, so that no split of a batch shows."""
    max_log_ratio: torch.Tensor
    """max_t log rho, nats, at least 0."""
    surrogate_gain: torch.Tensor
    """sum_t A (rho - 1)."""
    masked_surrogate_gain: torch.Tensor
    """The same over the tokens that were kept."""
    max_position: torch.Tensor
    """Where max_known_kl sits: its token's number over T, in (0, 1]."""
    max_turn: torch.Tensor
    """The turn in which it sits, from 1."""
    turn_reached: torch.Tensor
    """bool, shape (batch, NUM_TURN_BINS): has tokens in those turns."""
    turn_inside: torch.Tensor
    """bool, shape (batch, NUM_TURN_BINS): and none of them is above the threshold of kl_for_max."""
    by_sign: dict[str, torch.Tensor]
    """See `by_sign.sign_statistics`."""
    weights: dict[str, torch.Tensor]
    """See `effective_sizes.weight_statistics`."""
    by_depth: dict[str, torch.Tensor] = field(default_factory=dict)
    """See `by_depth.depth_statistics`; empty where the prompts' lengths are not known."""
    by_lag: dict[str, torch.Tensor] = field(default_factory=dict)
    """See `lags.lag_statistics`; empty where all tokens are of one policy."""
    bound_sums: dict[str, torch.Tensor] = field(default_factory=dict)
    """See `bound_sums.bound_sums`."""
    groups: torch.Tensor | None = None
    """See `TokenBatch.groups`."""


@dataclass(frozen=True)
class UpdateStatistics:
    """What is known of an update or of a part of it; parts of one update are joined by `summary.concatenate`."""

    sequences: SequenceStatistics
    """Rows in any order."""
    position_tv: torch.Tensor
    """Sum over the finite sequences of their t-th token's total variation, shape (horizon,), float64."""


@torch.no_grad()
def measure_batch(
    batch: TokenBatch,
    mask: SequenceMask,
    *,
    kept: torch.Tensor | None = None,
    max_threshold: float = torch.inf,
    ratio_truncation: float | None = None,
) -> UpdateStatistics:
    """Measure a masked batch.

    Args:
        batch: with its divergences and a length of 1 or more.
        mask: the decision on the sequences.
        kept: bool, tokens with a gradient, shape (batch, response_length); None for all of the accepted sequences.
        max_threshold: the largest kl_for_max of a token that counts as inside, nats.
        ratio_truncation: the cap that the loss applies to its weight, or None.

    Returns:
        The statistics, on the device of the inputs and without a graph.
    """
    positions, turns = batch.response_mask.int().cumsum_(dim=-1), find_turns(batch.response_mask)
    begin = turns.begin(torch.tensor(FIRST_TURNS, device=positions.device))
    # a copy: a view keeps the whole batch alive, and travels with it
    lengths = positions[:, -1].clone()
    log_ratio, divergences = batch.log_ratio, batch.divergences
    deviation, log_ratio_sums = divergences.ratio_deviation, block_sums(log_ratio)
    known = known_divergences(divergences)
    kl = kl_sums(batch, known)
    sum_deviation = deviation.sum(dim=-1).double()
    accepted_or_kept = mask.accepted if kept is None else kept
    num_kept = torch.where(mask.accepted, lengths, 0) if kept is None else count(kept)
    by_sign = sign_statistics(
        batch.advantages,
        deviation,
        batch.response_mask,
        accepted_or_kept,
        num_tokens=lengths,
        num_kept=num_kept,
        sum_deviation=sum_deviation,
        first=begin[:, 0].clamp(max=turns.length - 1),
    )
    gain, kept_gain = (by_sign[name].sum(dim=-1) for name in ("gains", "kept_gains"))
    # divergences are 0 outside the mask and nowhere negative: the largest needs no mask
    max_known_kl, peak = (found.squeeze(-1) for found in largest(known.kl_for_max))
    max_kl = max_known_kl if known.unknown is None else divergences.kl_for_max.upper.amax(dim=-1)
    stopped = ~(max_kl <= max_threshold)
    cut = rows_where(stopped)
    reached = begin < turns.length
    sequences = SequenceStatistics(
        has_tokens=mask.has_tokens,
        accepted=mask.accepted,
        undecided=mask.undecided,
        rejected_by=dict(mask.rejected_by),
        decided_by=dict(mask.decided_by),
        num_tokens=lengths,
        num_kept_tokens=num_kept,
        num_truncated_tokens=_num_truncated(batch, lengths, ratio_truncation),
        num_undecided_tokens=_num_undecided(divergences.kl_for_max, lengths, max_threshold)
        if mask.num_undecided is None
        else mask.num_undecided,
        num_known_tokens=lengths if known.unknown is None else lengths - count(known.unknown),
        num_turns=turns.counts,
        max_kl=max_kl,
        max_known_kl=max_known_kl,
        sum_kl=kl.known.total,
        max_tv=divergences.tv.upper.amax(dim=-1),
        sum_tv=known.tv.sum(dim=-1),
        sum_k3=kl.k3,
        mean_log_ratio=log_ratio_sums.total / lengths.clamp(min=1),
        min_log_ratio=log_ratio.amin(dim=-1).clamp(max=0),
        max_log_ratio=log_ratio.amax(dim=-1).clamp(min=0),
        surrogate_gain=gain,
        masked_surrogate_gain=kept_gain,
        # of divergences that are all 0 the peak is the first, which the model need not have sampled
        max_position=positions.gather(-1, peak.unsqueeze(-1)).squeeze(-1).clamp(min=1) / lengths.clamp(min=1),
        max_turn=turns.number_at(peak).clamp(min=1),
        turn_reached=reached,
        turn_inside=turns_inside(reached, begin, divergences.kl_for_max.upper, cut, max_threshold),
        by_sign=by_sign,
        weights=weight_statistics(log_ratio_sums, deviation, sum_deviation, turns),
        by_depth=_by_depth(batch, positions, accepted_or_kept, kl.known, known.unknown),
        by_lag=_by_lag(batch, mask, kept, known),
        bound_sums=bound_sums(
            batch,
            kl.unbiased,
            positions,
            sum_kl=kl.sum_unbiased,
            max_known_kl=max_known_kl,
            gain=gain,
            stopped=stopped,
            cut=cut,
            max_kl=max_threshold,
        ),
        groups=batch.groups,
    )
    counted = _of_rows(positions, finite_sequences(sequences))
    return UpdateStatistics(sequences, position_sums(known.tv, counted))


def concatenate(parts: Sequence[UpdateStatistics]) -> UpdateStatistics:
    """Join the statistics of micro-batches and ranks.

    Args:
        parts: one or more, on one device, with the same criteria.

    Returns:
        All their rows; the position sums added, the shorter ones as if padded by 0.
    """
    if len(parts) == 1:
        return parts[0]
    rows: dict[str, object] = {}
    for item in fields(SequenceStatistics):
        values = [getattr(part.sequences, item.name) for part in parts]
        if isinstance(values[0], dict):
            rows[item.name] = {name: torch.cat([value[name] for value in values]) for name in values[0]}
        elif values[0] is None:
            rows[item.name] = None
        else:
            rows[item.name] = torch.cat(values)
    position_tv = parts[0].position_tv.new_zeros(max(len(part.position_tv) for part in parts))
    for part in parts:
        position_tv[: len(part.position_tv)] += part.position_tv
    return UpdateStatistics(SequenceStatistics(**rows), position_tv)  # type: ignore[arg-type]


def finite_sequences(sequences: SequenceStatistics) -> torch.Tensor:
    """Return which sequences have tokens and finite divergences: the others are counted, and in no mean or extreme.

    A token of whose divergence nothing is known is itself in no sum, and its sequence stays.

    Args:
        sequences: the rows.

    Returns:
        bool, shape (batch,).
    """
    sums = (sequences.sum_kl, sequences.sum_tv, sequences.sum_k3, sequences.max_known_kl, sequences.mean_log_ratio)
    return sequences.has_tokens & torch.stack([value.double() for value in sums]).isfinite().all(dim=0)


def position_sums(values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Sum over the batch the values of every sequence's t-th token of the model.

    Args:
        values: 0 on tokens that the model did not sample, shape (batch, response_length).
        positions: `response_mask.cumsum(-1)`, shape (batch, response_length); what stands at 0 is left out.

    Returns:
        Shape (response_length,), float64: entry t - 1 for the t-th token.
    """
    sums = values.new_zeros(values.shape[-1] + 1)
    # a token that the model did not sample adds its 0 to the position before it
    return sums.index_add_(0, positions.flatten(), values.flatten())[1:].double()


def _of_rows(positions: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return the positions of some sequences, and 0 for the others."""
    if rows.device.type == "cpu" and bool(rows.all()):
        return positions
    return positions * rows.unsqueeze(-1)


def _by_depth(
    batch: TokenBatch, positions: torch.Tensor, kept: torch.Tensor, kl: BlockSums, unknown: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    if batch.prompt_lengths is None:
        return {}
    known = None if unknown is None else (batch.response_mask & ~unknown).int().cumsum_(dim=-1)
    return depth_statistics(batch.prompt_lengths, positions, kept, kl, known)


def _by_lag(
    batch: TokenBatch, mask: SequenceMask, kept: torch.Tensor | None, known: KnownDivergences
) -> dict[str, torch.Tensor]:
    if batch.lags is None:
        return {}
    kept = kept_tokens(batch.response_mask, mask.accepted) if kept is None else kept
    return lag_statistics(batch.lags, batch.response_mask, kept, known.kl_for_avg, known.unknown)


def _num_truncated(batch: TokenBatch, lengths: torch.Tensor, ratio_truncation: float | None) -> torch.Tensor:
    if ratio_truncation is None:
        return torch.zeros_like(lengths)
    weight = batch.log_ratio if batch.log_weight is None else batch.log_weight
    return (batch.response_mask & (weight > math.log(ratio_truncation))).sum(dim=-1)


def _num_undecided(kl: Interval, lengths: torch.Tensor, max_threshold: float) -> torch.Tensor:
    if kl.is_known:
        return torch.zeros_like(lengths)
    return (~(kl.upper <= max_threshold) & (kl.lower <= max_threshold)).sum(dim=-1)
