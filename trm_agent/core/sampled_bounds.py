"""Our bounds of an update from its sequences, with their intervals: expectations only, no maximum over contexts."""

from collections.abc import Mapping, Sequence

import torch

from trm_agent.core.bootstrap import LEVEL, group_means, interval, resampled_means
from trm_agent.core.chi2_bounds import pooled_chi2_kl_bound
from trm_agent.core.stop import cut_bound, hybrid_bound

_STOP = ("stopped", "stop_kl", "stop_chi2", "stop_delayed_kl")


def sampled_bounds(
    horizon: torch.Tensor,
    sums: Mapping[str, torch.Tensor],
    finite: torch.Tensor,
    groups: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Estimate the bounds from the sums of an update's sequences.

    The intervals are of the bound as a function of the sample: they see no rare context that no sequence met. That no
    sequence is stopped does not show that none would be, so the upper end of stop's interval takes at least the share
    that so many groups miss with the probability of that end: sequences of one group may all be alike. Of a single
    group nothing is known of others, and there is no interval.

    Args:
        horizon: T, scalar: as many tokens as a sequence can have, sampled or not. With those of the longest sampled
            one the bounds assume that none is longer.
        sums: of `bound_sums`, of sequences with tokens, shape (sequences,) each.
        finite: bool, at least one True, shape (sequences,). The others are left out of chi2-KL, and to stop they are
            cut at their first token.
        groups: int64, equal for the sequences of one prompt, shape (sequences,); None where each is a draw of its own.

    Returns:
        Metric -> scalar float64.
    """
    horizon, names = horizon.double(), _STOP if "stopped" in sums else ()
    # a mean over the finite ones is a ratio of two over all, so that one set of weights will do
    of_finite = [torch.where(finite, sums[name], 0.0) for name in ("chi2", "delayed_kl")]
    of_stop = [torch.where(finite, sums[name], name == "stopped") for name in names]
    groups = torch.arange(len(finite), device=finite.device) if groups is None else groups
    (chi2, delayed_kl, share, *stop_means), num_groups = _resampled([*of_finite, finite, *of_stop], groups)
    chi2_kl = pooled_chi2_kl_bound(horizon, chi2 / share, delayed_kl / share)
    metrics = {"bound_chi2_kl": chi2_kl[0]}
    if num_groups > 1:
        metrics["bound_chi2_kl_low"], metrics["bound_chi2_kl_high"] = interval(chi2_kl[1:])
    if not names:
        return metrics
    stopped, kept_kl, *others = stop_means
    hybrid = hybrid_bound(horizon, sums["stop_max_kl"][0], kept_kl, *others)
    stop = hybrid + cut_bound(stopped, kept_kl)
    metrics["bound_stop"] = stop[0]
    if num_groups > 1:
        unseen = 1 - ((1 - LEVEL) / 2) ** (1 / num_groups)
        cautious = hybrid + cut_bound(stopped.clamp(min=unseen), kept_kl)
        metrics["bound_stop_low"], metrics["bound_stop_high"] = interval(stop[1:])[0], interval(cautious[1:])[1]
    metrics["surrogate_gain_stop"] = torch.where(finite, sums["stop_gain"], 0.0).double().mean()
    return metrics


def _resampled(columns: Sequence[torch.Tensor], groups: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], int]:
    """Return the mean of each column, and after it its resampled means; and the number of groups."""
    rows = torch.stack([values.double() for values in columns], dim=-1)
    means, sizes = group_means(rows, groups)
    return torch.cat([rows.mean(dim=0, keepdim=True), resampled_means(means, sizes)]).unbind(dim=-1), len(sizes)
