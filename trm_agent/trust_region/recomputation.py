"""The exact divergences of a dump again, from both engines' distributions."""

import numpy as np
import torch

from trm_agent.core.chi2_bounds import pooled_chi2_kl_bound, token_chi2
from trm_agent.core.divergences import token_kl_k3
from trm_agent.core.exact import exact_divergences
from trm_agent.core.intervals import topk_intervals
from trm_agent.trust_region.dump import Dump
from trm_agent.trust_region.recording import REPLAYED


def recompute(dump: Dump) -> dict[str, float] | None:
    """Recompute the exact divergences from both engines' whole distributions, where the dump has them.

    With estimator `replayed` the policy in training is cut to the tokens that the rollout could draw.

    Returns:
        The number of tokens compared, the largest differences from the trainer's log (infinite where one of the two is
        NaN), what that of KL has beyond a thousandth of it, and the pooled chi2-KL bound from the distributions and
        from the sampled tokens; without a cut also the number of logged KLs outside the interval that the rollout's top
        `settings["top_k"]` would have given. None without distributions.
    """
    is_cut = dump.settings.get("estimator") == REPLAYED
    largest = {"kl": 0.0, "tv": 0.0, "beyond": 0.0}
    num_tokens = num_outside = 0
    sums: dict[str, list[torch.Tensor]] = {"chi2_kl_exact": [], "chi2_kl_sampled": []}
    for row in dump.table.to_pylist():
        if row["full_log_probs"] is None:
            continue
        shape = (-1, row["vocab_size"])
        ours, theirs = (
            torch.from_numpy(np.frombuffer(row[name], dtype=np.float32).copy()).view(shape).double()
            for name in ("full_log_probs", "rollout_full_log_probs")
        )
        if is_cut:
            ours = ours.masked_fill(theirs == -torch.inf, -torch.inf).log_softmax(dim=-1)
        exact = exact_divergences(theirs, ours)
        sampled = np.asarray(row["response_mask"], dtype=bool)
        logged_kl, logged_tv = (
            torch.tensor(np.asarray(row[name], dtype=np.float64)[sampled]) for name in ("kl_upper", "tv_upper")
        )
        # of a set that may be larger than its record infinity was logged
        known = ~logged_kl.isposinf() if is_cut else torch.ones_like(logged_kl, dtype=torch.bool)
        apart, apart_tv = _apart(logged_kl, exact.kl), _apart(logged_tv, exact.tv)
        found = {"kl": apart, "tv": apart_tv, "beyond": _or_infinite(apart - 1e-3 * exact.kl)}
        largest = {name: max([value, *found[name][known].tolist()]) for name, value in largest.items()}
        num_tokens += int(known.sum())
        of_theta, of_roll = (
            torch.tensor(np.asarray(row[name], np.float64)[sampled]) for name in ("log_probs", "rollout_log_probs")
        )
        log_ratio = of_theta - of_roll
        sums["chi2_kl_exact"].append(_chi2_and_delayed_kl(token_chi2(theirs, ours), exact.kl))
        sums["chi2_kl_sampled"].append(_chi2_and_delayed_kl(log_ratio.expm1().square(), token_kl_k3(log_ratio)))
        if is_cut:
            continue
        top = theirs.topk(min(dump.settings["top_k"], row["vocab_size"]))
        interval = topk_intervals(top.indices, top.values.float(), ours)
        # logged values are rounded to float32
        slack = 1e-6 * (1 + logged_kl)
        inside = (logged_kl >= interval.kl_lower - slack) & (logged_kl <= interval.kl_upper + slack)
        # infinity minus itself is NaN
        inside |= logged_kl == interval.kl_lower
        num_outside += int((~inside).sum())
    if not num_tokens:
        return None
    differences = {f"{name}_difference": largest[name] for name in ("kl", "tv")}
    longest = int(dump.response_mask.sum(axis=1).max())
    bounds = {
        name: pooled_chi2_kl_bound(longest, *torch.stack(rows).mean(dim=0).clamp(min=0)).item()
        for name, rows in sums.items()
    }
    told = {"tokens": num_tokens, **differences, "kl_beyond_a_thousandth": largest["beyond"], **bounds}
    return told if is_cut else {**told, "outside_topk_interval": num_outside}


def _apart(logged: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """Return |logged - exact|; two infinities are 0 apart, and NaN is infinitely far from everything."""
    return _or_infinite(torch.where(logged == exact, 0.0, (logged - exact).abs()))


def _or_infinite(values: torch.Tensor) -> torch.Tensor:
    """Return the values with infinity in place of NaN, which no maximum would keep."""
    return torch.where(values.isnan(), torch.inf, values)


def _chi2_and_delayed_kl(chi2: torch.Tensor, kl: torch.Tensor) -> torch.Tensor:
    """Return sum_t chi2_t and sum_t (t - 1) KL_t of one sequence, shape (2,), float64."""
    return torch.stack([chi2.sum(), (kl * torch.arange(len(kl))).sum()]).double()
