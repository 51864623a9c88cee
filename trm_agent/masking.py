"""From the settings to a mask: which divergence of `core` each criterion compares with which threshold."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from trm_agent.config import TrmConfig
from trm_agent.core.diagnostics import UpdateStatistics, concatenate, measure_batch
from trm_agent.core.divergences import token_divergence
from trm_agent.core.losses import kept_tokens
from trm_agent.core.masks import (
    Interval,
    SequenceMask,
    length_neutral_statistic,
    max_statistic,
    mean_statistic,
    random_mask,
    ratio_deviation_statistic,
    sequence_mask,
    usable_ratios,
)
from trm_agent.core.token_batch import BatchDivergences, TokenBatch
from trm_agent.core.token_masks import prefix_budget_mask, token_mask

# elements of one tensor that are worked on at a time
CPU_CHUNK_ELEMENTS = 2**18
# criterion of the settings -> criteria of the mask -> the field that holds the threshold
SEQUENCE_CRITERIA: dict[str, dict[str, str]] = {
    "max": {"max": "max_token_kl"},
    "avg": {"avg": "avg_token_kl"},
    "both": {"max": "max_token_kl", "avg": "avg_token_kl"},
    "ln": {"ln": "length_neutral"},
    "ser": {"ser": "ratio_deviation"},
}


def sampled_divergences(trm: TrmConfig, log_ratio: torch.Tensor) -> BatchDivergences:
    """Estimate the divergences from the sampled tokens.

    Args:
        trm: names the estimators.
        log_ratio: log rho from `masked_log_ratio`, shape (batch, response_length), nats.

    Returns:
        The divergences, without a graph.
    """
    log_ratio = log_ratio.detach()
    # the dearest pass over the batch: made once
    deviation = torch.expm1(log_ratio)

    def measured(name: str) -> Interval:
        return Interval.known(deviation - log_ratio if name == "k3" else token_divergence(log_ratio, name))

    for_max = measured(trm.max_estimator)
    for_avg = for_max if trm.avg_estimator == trm.max_estimator else measured(trm.avg_estimator)
    return BatchDivergences(for_max, for_avg, Interval.known(deviation.abs().div_(2)), deviation, sampled=True)


def with_thresholds(trm: TrmConfig, max_token_kl: float | None, avg_token_kl: float | None = None) -> TrmConfig:
    """The settings with other thresholds; as they are where None."""
    given = {"max_token_kl": max_token_kl, "avg_token_kl": avg_token_kl}
    changed = {name: value for name, value in given.items() if value is not None}
    return replace(trm, **changed) if changed else trm  # type: ignore[arg-type]


@torch.no_grad()
def examine(trm: TrmConfig, batch: TokenBatch) -> tuple[torch.Tensor, UpdateStatistics]:
    """Decide by the settings' criterion which tokens stay in the update, and measure the batch.

    On a CPU this goes through a few sequences at a time, whose tensors stay in its caches.

    Args:
        trm: the settings.
        batch: its tokens; those of the sampled tokens are measured here where it has no divergences.

    Returns:
        bool of shape (batch, response_length), True on tokens of the model that stay, and the batch's statistics.
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
    return torch.cat(kept), concatenate(statistics)


@torch.no_grad()
def decide(trm: TrmConfig, batch: TokenBatch) -> torch.Tensor:
    """Decide like `examine`, without statistics.

    Returns:
        bool, shape (batch, response_length): tokens of the model that stay.
    """
    return torch.cat([tokens for *_, tokens in _decisions(trm, batch)])


def _decisions(trm: TrmConfig, batch: TokenBatch) -> Iterator[tuple[TokenBatch, SequenceMask, torch.Tensor]]:
    """Some sequences at a time: their tokens with divergences, the decision on them and on their tokens."""
    for rows in _row_chunks(batch.log_ratio):
        part = batch.rows(rows)
        if part.measured is None:
            part = part.with_divergences(sampled_divergences(trm, part.log_ratio))
        yield part, *_decide(trm, part)


def _row_chunks(values: torch.Tensor) -> list[slice]:
    size = max(1, len(values))
    if values.device.type == "cpu":
        size = min(size, max(1, CPU_CHUNK_ELEMENTS // max(1, values.shape[-1])))
    return [slice(start, start + size) for start in range(0, max(1, len(values)), size)]


def _decide(trm: TrmConfig, batch: TokenBatch) -> tuple[SequenceMask, torch.Tensor]:
    """The decision on the sequences and on their tokens; a token criterion accepts a sequence that keeps one."""
    has_tokens = batch.lengths > 0
    usable = usable_ratios(batch.log_ratio)
    if trm.masks_tokens:
        kept = _token_decision(trm, batch) & usable
        accepted = kept.any(dim=-1)
        reasons = {trm.criterion: has_tokens & ~accepted}
        return SequenceMask(accepted, reasons, torch.zeros_like(has_tokens), has_tokens), kept
    if trm.criterion == "random":
        assert trm.random_acceptance is not None, "checked by TrmConfig"
        mask = random_mask(has_tokens, trm.random_acceptance, usable=usable.all(dim=-1))
    else:
        fields = SEQUENCE_CRITERIA[trm.criterion]
        statistics = {
            # distributions that the engine measured say nothing of a sampled log-prob that is none
            name: sequence_statistic(name, trm, batch).where(usable.all(dim=-1))
            for name in fields
        }
        thresholds = {name: getattr(trm, field) for name, field in fields.items()}
        mask = sequence_mask(statistics, thresholds, has_tokens, undecided=trm.undecided)
    return mask, kept_tokens(batch.response_mask, mask.accepted)


def sequence_statistic(name: str, trm: TrmConfig, batch: TokenBatch) -> Interval:
    """Reduce the tokens' divergences to what a criterion compares with its threshold.

    Args:
        name: `max`, `avg`, `ln` or `ser`.
        trm: holds delta and eps of `ln`.
        batch: with its divergences.

    Returns:
        Shape (batch,).
    """
    if name == "max":
        return max_statistic(batch.divergences.kl_for_max)
    if name == "avg":
        return mean_statistic(batch.divergences.kl_for_avg, batch.lengths)
    if name == "ser":
        return ratio_deviation_statistic(batch.log_ratio, batch.response_mask)
    assert trm.max_token_kl is not None, "checked by TrmConfig"
    return length_neutral_statistic(
        batch.log_ratio, batch.response_mask, max_token_kl=trm.max_token_kl, max_token_tv=trm.max_token_tv
    )


def _token_decision(trm: TrmConfig, batch: TokenBatch) -> torch.Tensor:
    divergences = batch.divergences.at_bound("upper" if trm.undecided == "reject" else "lower")
    if trm.criterion == "token":
        assert trm.max_token_kl is not None, "checked by TrmConfig"
        return token_mask(divergences.kl_for_max.upper, batch.response_mask, trm.max_token_kl)
    assert trm.token_tv is not None, "checked by TrmConfig"
    token_tv = divergences.tv.upper
    if divergences.sampled:
        # the binary total variation |pi_theta - pi_roll| of the sampled token against all others
        log_prob = torch.where(batch.response_mask, batch.rollout_log_probs, 0.0)
        token_tv = log_prob.exp() * torch.expm1(batch.log_ratio).abs()
    return prefix_budget_mask(
        token_tv,
        batch.log_ratio,
        batch.advantages,
        batch.response_mask,
        threshold=trm.token_tv,
        min_position_weight=trm.min_position_weight,
        prefix_budget=trm.prefix_budget,
    )
