"""Our bounds of an update from its sequences, with their intervals: expectations only, no maximum over contexts."""

from collections.abc import Mapping

import torch

from trm_agent.core.bootstrap import LEVEL, interval, resampled_means
from trm_agent.core.chi2_bounds import pooled_chi2_kl_bound
from trm_agent.core.stop import stop_bound

_STOP = ("stopped", "stop_kl", "stop_chi2", "stop_delayed_kl")
Columns = dict[str, torch.Tensor]


def sampled_bounds(
    horizon: torch.Tensor, sums: Mapping[str, torch.Tensor], finite: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Estimate the bounds from the sums of an update's sequences.

    The intervals are of the bound as a function of the sample: they see no rare context that no sequence met. That no
    sequence is stopped does not show that none would be, so the upper end of stop's interval takes at least the share
    that so many sequences miss with the probability of that end.

    Args:
        horizon: T, scalar.
        sums: of `bound_sums`, of sequences with tokens, shape (sequences,) each.
        finite: bool, at least one True, shape (sequences,). The others are left out of chi2-KL, and to stop they are
            cut at their first token.

    Returns:
        Metric -> scalar float64.
    """
    horizon = horizon.double()
    columns = _resampled({name: sums[name][finite] for name in ("chi2", "delayed_kl")})
    chi2_kl = pooled_chi2_kl_bound(horizon, columns["chi2"], columns["delayed_kl"])
    metrics = {"bound_chi2_kl": chi2_kl[0]}
    metrics["bound_chi2_kl_low"], metrics["bound_chi2_kl_high"] = interval(chi2_kl[1:])
    if "stopped" not in sums:
        return metrics
    cut = {name: torch.where(finite, sums[name], name == "stopped") for name in (*_STOP, "stop_gain")}
    columns, max_kl = _resampled({name: cut[name] for name in _STOP}), sums["stop_max_kl"][0]
    others = [columns[name] for name in _STOP[1:]]
    stop = stop_bound(horizon, max_kl, columns["stopped"], *others)
    unseen = 1 - ((1 - LEVEL) / 2) ** (1 / len(finite))
    cautious = stop_bound(horizon, max_kl, columns["stopped"].clamp(min=unseen), *others)
    metrics |= {"bound_stop": stop[0], "bound_stop_low": interval(stop[1:])[0]}
    metrics["bound_stop_high"] = interval(cautious[1:])[1]
    metrics["surrogate_gain_stop"] = cut["stop_gain"].double().mean()
    return metrics


def _resampled(rows: Columns) -> Columns:
    """Return the mean of each column, and after it its resampled means."""
    stacked = torch.stack([values.double() for values in rows.values()], dim=-1)
    means = torch.cat([stacked.mean(dim=0, keepdim=True), resampled_means(stacked)])
    return dict(zip(rows, means.unbind(dim=-1), strict=True))
