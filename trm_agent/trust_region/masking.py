"""Apply the table of criteria to a batch, a few sequences at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from trm_agent.core.diagnostics import UpdateStatistics, concatenate, measure_batch
from trm_agent.core.losses import kept_tokens
from trm_agent.core.masks import Interval, SequenceMask, sequence_mask, usable_ratios, usable_sequences
from trm_agent.core.reductions import count, occurs
from trm_agent.core.token_batch import TokenBatch
from trm_agent.trust_region.controls import reason_of_tokens
from trm_agent.trust_region.criteria import CRITERIA, arguments_of, parts_of
from trm_agent.trust_region.criterion import Criterion
from trm_agent.trust_region.settings import FIELD_PATH, TrmConfig
from trm_fields import refuse

# elements of one tensor that are processed at a time
CPU_CHUNK_ELEMENTS = 2**18


def with_thresholds(trm: TrmConfig, thresholds: Mapping[str, Any]) -> TrmConfig:
    """Return the settings with other thresholds: field -> value."""
    return replace(trm, **thresholds) if thresholds else trm


@torch.no_grad()
def examine(trm: TrmConfig, batch: TokenBatch) -> tuple[torch.Tensor, UpdateStatistics]:
    """Decide by the settings' criterion which tokens stay in the update, and measure the batch.

    On a CPU this goes through a few sequences at a time, whose tensors stay in its caches.

    Args:
        trm: the settings.
        batch: the tokens; the settings name the estimator for a batch without measured divergences.

    Returns:
        bool of shape (batch, response_length), True on tokens of the model that stay, and the batch's statistics.

    Raises:
        ValueError: the batch lacks what the settings' `mask_policy` or criterion decides by.
    """
    kept, statistics = [], []
    for part, mask, tokens in _decisions(trm, batch):
        kept.append(tokens)
        measured = measure_batch(
            part,
            mask,
            kept=tokens if trm.masks_tokens else None,
            max_threshold=torch.inf if trm.max_token_kl is None else trm.max_token_kl,
            ratio_truncation=trm.ratio_truncation,
        )
        statistics.append(measured)
    return _joined(kept), concatenate(statistics)


@torch.no_grad()
def decide(trm: TrmConfig, batch: TokenBatch) -> torch.Tensor:
    """Decide as `examine` does, without statistics.

    Returns:
        bool, shape (batch, response_length): tokens of the model that stay.
    """
    return _joined([tokens for *_, tokens in _decisions(trm, batch)])


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _decisions(trm: TrmConfig, batch: TokenBatch) -> Iterator[tuple[TokenBatch, SequenceMask, torch.Tensor]]:
    """Yield some sequences at a time: their tokens, the decision on them and on their tokens."""
    batch = replace(batch, max_estimator=trm.max_estimator, avg_estimator=trm.avg_estimator)
    for part in _parts(batch):
        compared = part if trm.mask_policy == "current" else _at_start_of_step(part)
        yield part, *_decide(trm, trm.criterion, compared, part.log_ratio)


def _at_start_of_step(batch: TokenBatch) -> TokenBatch:
    if batch.start_log_ratio is None:
        refuse(
            f"{FIELD_PATH}.mask_policy",
            "start_of_step",
            "current, or start_of_step with the trainer's log-probs of the start of the step",
            "set mask_policy=current, or algorithm.rollout_correction.bypass_mode=false",
            because="but the batch lacks them",
        )
    return replace(batch, log_ratio=batch.start_log_ratio)


def _parts(batch: TokenBatch) -> Iterator[TokenBatch]:
    num_rows, length = batch.log_ratio.shape
    size = max(1, num_rows)
    if batch.log_ratio.device.type == "cpu":
        size = min(size, max(1, CPU_CHUNK_ELEMENTS // max(1, length)))
    if num_rows <= size:
        # small batches feel the cutting
        yield batch
        return
    for start in range(0, num_rows, size):
        yield batch.rows(slice(start, start + size))


def _decide(
    trm: TrmConfig, criterion: str, batch: TokenBatch, log_ratio: torch.Tensor
) -> tuple[SequenceMask, torch.Tensor]:
    """Decide on the sequences and their tokens; a token criterion accepts a sequence that keeps one.

    `batch` is of the policy that is compared with the rollout, `log_ratio` of the one that is updated.
    """
    row, has_tokens = CRITERIA[criterion], batch.lengths > 0
    if row.statistic is not None or row.parts:
        mask = _by_statistics(trm, criterion, batch, has_tokens, usable_sequences(log_ratio))
        return mask, kept_tokens(batch.response_mask, mask.accepted)
    if row.control is not None:
        return _by_control(trm, criterion, batch, log_ratio)
    is_open: torch.Tensor | None = None
    if row.whole_batch is not None:
        stays = _decided_beforehand(criterion, batch)
    else:
        stays, is_open = _by_rule(trm, row, batch)
    usable = usable_ratios(log_ratio) if row.masks_tokens else usable_sequences(log_ratio)
    kept = stays & usable if row.masks_tokens else kept_tokens(batch.response_mask, stays & usable)
    undecided, num_undecided = torch.zeros_like(has_tokens), None
    if is_open is not None:
        # what no loss can weigh is left out by either bound
        is_open = is_open & usable
        num_undecided = count(is_open) if row.masks_tokens else None
        undecided = has_tokens & (occurs(is_open) if row.masks_tokens else is_open)
    accepted = occurs(kept)
    reasons = {criterion: has_tokens & ~accepted}
    return SequenceMask(accepted, reasons, undecided, has_tokens, num_undecided=num_undecided), kept


def _by_control(
    trm: TrmConfig, criterion: str, batch: TokenBatch, log_ratio: torch.Tensor
) -> tuple[SequenceMask, torch.Tensor]:
    """Decide by a control: on sequences or on tokens, as the criterion does that it controls."""
    control = CRITERIA[criterion].control
    assert control is not None, f"{criterion} controls none"
    controlled, tokens = _decide(trm, trm.controlled, batch, log_ratio)
    if trm.masks_tokens:
        kept = batch.response_mask & control(tokens) & usable_ratios(log_ratio)
        reason = reason_of_tokens(criterion, trm.controlled)
    else:
        kept = kept_tokens(batch.response_mask, control(controlled.accepted) & usable_sequences(log_ratio))
        reason = criterion
    accepted = occurs(kept)
    rejected_by = {reason: controlled.has_tokens & ~accepted}
    return replace(controlled, accepted=accepted, rejected_by=rejected_by, decided_by={}), kept


def _by_rule(trm: TrmConfig, row: Criterion, batch: TokenBatch) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Decide by a row's function, at each bound of the divergences: `reject` keeps what stays by both of them.

    Returns:
        What stays, and where the bounds decide differently; None where every divergence is known. Both have the shape
        of what `Criterion.keeps` returns.
    """
    assert row.keeps is not None, "the row has no rule"
    arguments = arguments_of(row, trm)
    if batch.divergences.kl_for_max.is_known:
        return row.keeps(batch, **arguments), None
    # a budget that follows the sequence's own divergences may keep a token by the upper bound alone
    upper, lower = (row.keeps(batch.at_bound(bound), **arguments) for bound in ("upper", "lower"))
    return (upper & lower if trm.undecided == "reject" else upper | lower), upper != lower


def _decided_beforehand(criterion: str, batch: TokenBatch) -> torch.Tensor:
    if batch.decided is None:
        refuse(
            f"{FIELD_PATH}.criterion",
            criterion,
            "one that decides on single sequences, or this one with verl's FSDP engine",
            "choose another criterion",
            because="which decides on all sequences of an update at once, and only a part of them is known here",
        )
    return batch.decided


def _by_statistics(
    trm: TrmConfig, criterion: str, batch: TokenBatch, has_tokens: torch.Tensor, usable: torch.Tensor
) -> SequenceMask:
    parts = parts_of(criterion)
    # distributions measured by the engine do not vouch for a sampled log-prob that is not finite
    statistics = {name: sequence_statistic(name, trm, batch).where(usable) for name in parts}
    thresholds = {name: getattr(trm, CRITERIA[name].thresholds[0].name) for name in parts}
    return sequence_mask(statistics, thresholds, has_tokens, undecided=trm.undecided)


def sequence_statistic(name: str, trm: TrmConfig, batch: TokenBatch) -> Interval:
    """Reduce the tokens' divergences to the number that a criterion compares with its threshold.

    Args:
        name: a criterion with a statistic.
        trm: the settings.
        batch: with its divergences.

    Returns:
        Shape (batch,).
    """
    row = CRITERIA[name]
    assert row.statistic is not None, f"{name} decides without a statistic"
    return row.statistic(batch, **arguments_of(row, trm))
