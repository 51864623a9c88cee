"""One update's metrics from the statistics of all its sequences, and the error bounds that they suggest."""

import math
from collections.abc import Mapping
from dataclasses import fields

import torch

from trm_agent.core.bounds import error_bounds
from trm_agent.core.by_depth import depth_metrics
from trm_agent.core.by_sign import sequences_of_sign, sign_metrics
from trm_agent.core.diagnostics import FIRST_TURNS, SequenceStatistics, UpdateStatistics, finite_sequences
from trm_agent.core.divergences import token_kl_k2
from trm_agent.core.effective_sizes import weight_metrics
from trm_agent.core.horizon import effective_horizon
from trm_agent.core.lags import lag_metrics, span_metrics
from trm_agent.core.ratios import Ratio, divided, ratios
from trm_agent.core.sampled_bounds import sampled_bounds
from trm_agent.core.surrogate import improvement_margin

MAX_KL_QUANTILES = (50, 90, 99)
# those that need a token whose divergence is known
_OF_KNOWN = ("token_kl_mean", "token_kl_max", "token_tv_mean", "max_kl_position", "max_kl_turn")


def summarize(update: UpdateStatistics, longest: int | None = None) -> dict[str, torch.Tensor]:
    """Form the metrics of one update.

    Those of several are not the means of these: see `summarize_parts`.

    Args:
        update: the statistics of all its sequences.
        longest: tokens that a sequence can have, sampled or not, for the bounds without a premise; None takes the
            longest of the update.

    Returns:
        Name, as docs/metrics.md defines it but without `trm/` -> scalar float64. A number that does not exist (no
        sequence, none that is finite, no token whose divergence is known) is absent.
    """
    metrics, ratios = summarize_parts(update, longest)
    return metrics | divided(ratios)


def summarize_parts(
    update: UpdateStatistics, longest: int | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, Ratio]]:
    """Form the metrics of one update so that they can be joined with those of others.

    Args:
        update: see `summarize`.
        longest: see `summarize`.

    Returns:
        Numbers of all sequences, whose means over updates (or extremes) are those of a step; and numbers of the
        sequences or tokens of one lag, span, depth, turn or sign, of which an update may have few or none: add the sums
        over the updates, then divide.
    """
    rows = update.sequences
    has_tokens = rows.has_tokens
    metrics = {"num_sequences": has_tokens.double().sum()}
    if not bool(has_tokens.any()):
        return metrics, {}
    accepted = rows.accepted[has_tokens].double()
    finite = finite_sequences(rows)
    metrics |= {
        "acceptance": accepted.mean(),
        "all_rejected": (rows.num_kept_tokens.sum() == 0).double(),
        "undecided": rows.undecided[has_tokens].double().mean(),
        "undecided_tokens": rows.num_undecided_tokens.sum() / rows.num_tokens.sum(),
        "kept_tokens": rows.num_kept_tokens.sum() / rows.num_tokens.sum(),
        "nonfinite": 1.0 - finite.double().sum() / has_tokens.sum(),
        "horizon": rows.num_tokens.max(),
    }
    metrics |= {f"rejected_by_{name}": values[has_tokens].double().mean() for name, values in rows.rejected_by.items()}
    quartiles = acceptance_by_length(rows.num_tokens[has_tokens], accepted)
    metrics |= {f"acceptance_length_q{group}": share for group, share in enumerate(quartiles, start=1)}
    metrics |= weight_metrics(rows.weights, rows.num_tokens, rows.num_turns, finite)
    largest = or_infinite(rows.max_kl[has_tokens])
    metrics |= {f"seq_max_kl_p{percent}": least_threshold(largest, percent / 100) for percent in MAX_KL_QUANTILES}
    if bool(finite.any()):
        metrics |= _of_finite(rows, finite) | _bounds(update, finite, longest)
    return {name: value.double() for name, value in metrics.items()}, _of_parts(rows, finite)


def least_threshold(values: torch.Tensor, share: float) -> torch.Tensor:
    """Return the least threshold that keeps a share of the values: their quantile by nearest rank.

    Args:
        values: shape (batch,), batch of 1 or more.
        share: above 0 and at most 1.

    Returns:
        Scalar, one of the values.
    """
    # rounding must not lift a whole rank: 0.7 * 10 is above 7 in floating point
    rank = math.ceil(share * len(values) * (1 - 1e-12))
    return values.sort().values[max(rank, 1) - 1]


def common_thresholds(
    statistics: Mapping[str, torch.Tensor], weights: torch.Tensor, share: float
) -> dict[str, torch.Tensor]:
    """Return the least thresholds, each at the same quantile of its own statistic, that together keep a share.

    F_c(s) = share with statistic c at most s,   q = least level at which {i: F_c(s_ci) <= q for every c} has the share,
    threshold_c = max{s_ci: F_c(s_ci) <= q}.   With one criterion this is `least_threshold`.

    Args:
        statistics: criterion -> what is compared with its threshold, shape (batch,), batch of 1 or more.
        weights: of the sequences, above 0, shape (batch,).
        share: above 0 and at most 1.

    Returns:
        Criterion -> scalar float64, one of its values; infinity where the share needs one that is infinite or NaN.
    """
    weights = weights.double() / weights.double().sum()
    values = {name: or_infinite(value) for name, value in statistics.items()}
    levels = {name: _weighted_share(value, value, weights) for name, value in values.items()}
    worst = torch.stack(list(levels.values())).amax(dim=0)
    kept = _weighted_share(worst, worst, weights)
    level = worst[kept >= share * (1 - 1e-9)].min()
    return {name: value[levels[name] <= level].max() for name, value in values.items()}


def or_infinite(values: torch.Tensor) -> torch.Tensor:
    """Return the values as float64, infinity in place of NaN: both are outside of every threshold."""
    return torch.where(values.isnan(), torch.inf, values.double())


def _weighted_share(values: torch.Tensor, at: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the weight of the values that are at most each of `at`."""
    ordered, order = values.sort()
    return weights[order].cumsum(dim=0)[torch.searchsorted(ordered, at, right=True) - 1]


def acceptance_by_length(lengths: torch.Tensor, accepted: torch.Tensor) -> torch.Tensor:
    """Split a batch into four equal groups by length, shortest first, and return the share accepted of each.

    Sequences of one length count with their common rate, so the result does not depend on the order of the batch; one
    that lies across the border of two groups gives each its part.

    Args:
        lengths: shape (batch,), batch of 1 or more.
        accepted: 0 or 1, float64, shape (batch,).

    Returns:
        Shape (4,).
    """
    values, inverse, counts = torch.unique(lengths, return_inverse=True, return_counts=True)
    rate = torch.zeros(len(values), dtype=torch.float64, device=lengths.device).index_add_(0, inverse, accepted)
    kept = (rate / counts)[inverse.sort().values].cumsum(dim=0)
    kept = torch.nn.functional.pad(kept, (1, 0))
    borders = torch.arange(5, device=lengths.device) * (len(lengths) / 4)
    below = borders.floor().long()
    above = (below + 1).clamp(max=len(lengths))
    return (kept[below] + (borders - below) * (kept[above] - kept[below])).diff() / (len(lengths) / 4)


def _of_parts(rows: SequenceStatistics, finite: torch.Tensor) -> dict[str, Ratio]:
    found = _turn_metrics(rows) | lag_metrics(rows.by_lag, rows.accepted, finite)
    found |= span_metrics(rows.by_lag, rows.accepted, rows.sum_kl, finite, sequences_of_sign(rows.by_sign))
    return found | depth_metrics(rows.by_depth, finite) | sign_metrics(rows.by_sign, rows.accepted, finite)


def _turn_metrics(rows: SequenceStatistics) -> dict[str, Ratio]:
    reached, inside = rows.turn_reached.sum(dim=0), rows.turn_inside.sum(dim=0)
    return ratios([f"inside_turns_{first}" for first in FIRST_TURNS], inside, reached)


def _of_finite(rows: SequenceStatistics, finite: torch.Tensor) -> dict[str, torch.Tensor]:
    num_tokens, num_known = (values[finite].sum() for values in (rows.num_tokens, rows.num_known_tokens))
    lowest, highest = rows.min_log_ratio[finite].double().min(), rows.max_log_ratio[finite].double().max()
    known = finite & (rows.num_known_tokens > 0)
    found = {
        "token_kl_mean": rows.sum_kl[finite].double().sum() / num_known,
        "token_kl_max": rows.max_known_kl[finite].max(),
        "token_tv_mean": rows.sum_tv[finite].double().sum() / num_known,
        "token_kl_mean_k3": rows.sum_k3[finite].double().sum() / num_tokens,
        "token_kl_k2_max": torch.maximum(token_kl_k2(lowest), token_kl_k2(highest)),
        "ppl_gap": rows.mean_log_ratio[finite].double().abs().mean(),
        "ratio_min": lowest.exp(),
        "ratio_max": highest.exp(),
        "ratio_truncated": rows.num_truncated_tokens[finite].sum() / num_tokens,
        "max_kl_position": rows.max_position[known].double().mean(),
        "max_kl_turn": rows.max_turn[known].double().mean(),
        "surrogate_gain": rows.surrogate_gain[finite].double().mean(),
        "surrogate_gain_masked": rows.masked_surrogate_gain[finite].double().mean(),
    }
    return found if bool(num_known > 0) else {name: found[name] for name in found if name not in _OF_KNOWN}


def _bounds(update: UpdateStatistics, finite: torch.Tensor, longest: int | None) -> dict[str, torch.Tensor]:
    """Return the paper's bounds, with divergences of the sampled contexts in place of all reachable ones, and ours."""
    rows = update.sequences
    horizon, num_tokens = rows.num_tokens.max(), rows.num_tokens[finite].sum()
    sums = {name: values[rows.has_tokens] for name, values in rows.bound_sums.items()}
    groups = None if rows.groups is None else rows.groups[rows.has_tokens]
    own = sampled_bounds(horizon.clamp(min=longest or 0), sums, finite[rows.has_tokens], groups)
    # the paper's take a maximum, and sums over sequences: of a token that may be anywhere there is neither
    if bool(rows.num_known_tokens[finite].sum() < num_tokens):
        return own
    max_kl, sum_kl = (rows.bound_sums[name][finite].double() for name in ("max_kl", "kl"))
    max_kl, kl_seq = max_kl.max(), sum_kl.mean()
    mean_tv = update.position_tv[: int(horizon)] / finite.sum()
    bounds = error_bounds(horizon, max_kl, kl_seq, mean_tv=mean_tv)
    named = {f"bound_{field.name}": getattr(bounds, field.name) for field in fields(bounds)} | own
    return named | {
        # every bound of the paper may be halved
        "bound_unified_halved": named["bound_unified"] / 2,
        "kl_seq": kl_seq,
        "effective_horizon": effective_horizon(max_kl, sum_kl.sum() / num_tokens),
        # the full gain: the bound is on J(theta) - J(roll) - L', and the masked gain may be large where J falls
        "margin": improvement_margin(rows.surrogate_gain[finite].double().mean(), named["bound_unified"]),
    }
