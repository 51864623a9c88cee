"""Our bounds of an update from its sequences, with their intervals: expectations only, no maximum over contexts."""

from collections.abc import Mapping

import torch

from trm_agent.core.bootstrap import LEVEL, interval, resampled_means
from trm_agent.core.chi2_bounds import pooled_chi2_kl_bound
from trm_agent.core.stop import cut_bound, hybrid_bound

_STOP = ("stopped", "stop_kl", "stop_chi2", "stop_delayed_kl")


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
    horizon, names = horizon.double(), _STOP if "stopped" in sums else ()
    # a mean over the finite ones is a ratio of two over all, so that one set of weights will do
    rows = {name: torch.where(finite, sums[name], 0.0) for name in ("chi2", "delayed_kl")} | {"finite": finite}
    rows |= {name: torch.where(finite, sums[name], name == "stopped") for name in names}
    columns = _resampled(rows)
    chi2, delayed_kl = (columns[name] / columns["finite"] for name in ("chi2", "delayed_kl"))
    chi2_kl = pooled_chi2_kl_bound(horizon, chi2, delayed_kl)
    metrics = {"bound_chi2_kl": chi2_kl[0]}
    metrics["bound_chi2_kl_low"], metrics["bound_chi2_kl_high"] = interval(chi2_kl[1:])
    if not names:
        return metrics
    stopped, kept_kl, *others = (columns[name] for name in names)
    hybrid = hybrid_bound(horizon, sums["stop_max_kl"][0], kept_kl, *others)
    stop = hybrid + cut_bound(stopped, kept_kl)
    unseen = 1 - ((1 - LEVEL) / 2) ** (1 / len(finite))
    cautious = hybrid + cut_bound(stopped.clamp(min=unseen), kept_kl)
    metrics |= {"bound_stop": stop[0], "bound_stop_low": interval(stop[1:])[0]}
    metrics["bound_stop_high"] = interval(cautious[1:])[1]
    metrics["surrogate_gain_stop"] = torch.where(finite, sums["stop_gain"], 0.0).double().mean()
    return metrics


def _resampled(rows: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the mean of each column, and after it its resampled means."""
    stacked = torch.stack([values.double() for values in rows.values()], dim=-1)
    means = torch.cat([stacked.mean(dim=0, keepdim=True), resampled_means(stacked)])
    return dict(zip(rows, means.unbind(dim=-1), strict=True))
