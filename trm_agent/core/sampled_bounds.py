"""Our bounds of an update from its sequences, with their intervals: expectations only, no maximum over contexts."""

from collections.abc import Mapping

import torch

from trm_agent.core.bootstrap import LEVEL, interval, resampled_means
from trm_agent.core.chi2_bounds import pooled_chi2_kl_bound
from trm_agent.core.stop import stop_bound

_STOP = ("stopped", "stop_kl", "stop_chi2", "stop_delayed_kl")


def sampled_bounds(horizon: torch.Tensor, sums: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Estimate the bounds from the sums of an update's sequences.

    The intervals are of the bound as a function of the sample. They see no rare context that no sequence met, but for
    one thing: that no sequence is stopped does not show that none would be, so the upper end of stop's interval takes
    at least the share that so many sequences miss with the probability of that end.

    Args:
        horizon: T, scalar.
        sums: of `bound_sums`, one or more finite sequences, shape (sequences,) each.

    Returns:
        Metric -> scalar float64.
    """
    names = ("chi2", "delayed_kl", *(_STOP if "stopped" in sums else ()))
    rows = torch.stack([sums[name].double() for name in names], dim=-1)
    means = torch.cat([rows.mean(dim=0, keepdim=True), resampled_means(rows)])
    # the first is the estimate, the others its resamples
    columns = dict(zip(names, means.unbind(dim=-1), strict=True))
    horizon = horizon.double()
    chi2_kl = pooled_chi2_kl_bound(horizon, columns["chi2"], columns["delayed_kl"])
    metrics = {"bound_chi2_kl": chi2_kl[0]}
    metrics["bound_chi2_kl_low"], metrics["bound_chi2_kl_high"] = interval(chi2_kl[1:])
    if "stopped" not in sums:
        return metrics
    max_kl, others = sums["stop_max_kl"][0], [columns[name] for name in _STOP[1:]]
    stop = stop_bound(horizon, max_kl, columns["stopped"], *others)
    unseen = 1 - ((1 - LEVEL) / 2) ** (1 / len(rows))
    cautious = stop_bound(horizon, max_kl, columns["stopped"].clamp(min=unseen), *others)
    metrics |= {"bound_stop": stop[0], "bound_stop_low": interval(stop[1:])[0]}
    metrics["bound_stop_high"] = interval(cautious[1:])[1]
    metrics["surrogate_gain_stop"] = sums["stop_gain"].double().mean()
    return metrics
