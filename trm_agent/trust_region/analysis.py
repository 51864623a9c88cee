"""The effect of other thresholds on a dump of rollouts: masks and bounds alone, without model or trainer."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from trm_agent.core.chi2_bounds import pooled_chi2_kl_bound, token_chi2
from trm_agent.core.divergences import masked_log_ratio, token_kl_k3
from trm_agent.core.exact import exact_divergences
from trm_agent.core.intervals import topk_intervals
from trm_agent.core.summary import acceptance_by_length, least_threshold, or_infinite, summarize
from trm_agent.core.token_batch import DivergenceBounds, TokenBatch
from trm_agent.trust_region.criteria import CRITERIA
from trm_agent.trust_region.dump import Dump
from trm_agent.trust_region.masking import examine, sequence_statistic
from trm_agent.trust_region.recording import REPLAYED
from trm_agent.trust_region.settings import TrmConfig
from trm_fields import SHARE, refuse

OF_EXPECTATIONS = ("bound_chi2_kl", "bound_stop")
STATISTICS = tuple(name for name, row in CRITERIA.items() if row.statistic)


@dataclass(frozen=True)
class Batch:
    """A dump as tensors, without the sequences whose numbers are not finite."""

    tokens: TokenBatch
    """Tokens of the sequences, with divergences."""
    reward: torch.Tensor
    """Rewards, float64, shape (sequences,); NaN where unknown."""
    num_dropped: int
    """Sequences with a log-prob that is not finite."""

    @property
    def lengths(self) -> torch.Tensor:
        """Return the number of the model's tokens in each sequence."""
        return self.tokens.lengths


@dataclass(frozen=True)
class CurvePoint:
    """Figures of the sequences that one threshold would have kept."""

    threshold: float
    acceptance: float
    by_length: list[float]
    """Acceptance of each quarter of the sequences, from the shortest to the longest."""
    reward_kept: float | None
    reward_rejected: float | None


def load(dump: Dump, trm: TrmConfig) -> Batch:
    """Measure the tokens of a dump as the settings say.

    Args:
        dump: the rollouts.
        trm: the settings; `estimator` names the source of the divergences.

    Raises:
        ValueError: the dump has no sequence with finite log-probs, or lacks the data of the estimator.
    """
    if trm.estimator != "sampled" and not dump.divergences:
        refuse(
            "estimator",
            trm.estimator,
            "sampled",
            f"dump with estimator={trm.estimator} to have more",
            because="but the dump holds only sampled log-probs",
        )
    mask = torch.from_numpy(dump.response_mask)
    log_ratio = masked_log_ratio(torch.from_numpy(dump.log_probs), torch.from_numpy(dump.rollout_log_probs), mask)
    rows = mask.any(dim=-1) & torch.isfinite(log_ratio).all(dim=-1)
    if not rows.any():
        raise ValueError(f"the dump has {len(rows)} sequences, none with finite log-probs; dump again")
    log_ratio, mask = log_ratio[rows], mask[rows]
    measured = None
    if trm.estimator != "sampled":
        found = {
            name: torch.where(mask, torch.from_numpy(values)[rows], 0.0) for name, values in dump.divergences.items()
        }
        measured = DivergenceBounds(**found).of_batch(log_ratio, known=False)
    reward = torch.from_numpy(np.array(dump.reward, dtype=np.float64))[rows]
    rollout_log_probs, advantages = (
        torch.where(mask, torch.from_numpy(values)[rows], 0.0) for values in (dump.rollout_log_probs, dump.advantages)
    )
    tokens = TokenBatch(
        log_ratio,
        rollout_log_probs,
        advantages,
        mask,
        measured,
        max_estimator=trm.max_estimator,
        avg_estimator=trm.avg_estimator,
    )
    return Batch(tokens, reward, int((~rows).sum()))


def masked(batch: Batch, trm: TrmConfig) -> dict[str, float]:
    """Measure the effect of the settings' mask on the batch.

    Returns:
        The metrics of docs/metrics.md without `trm/`, as training would log them.
    """
    _, statistics = examine(trm, batch.tokens)
    return {name: value.item() for name, value in summarize(statistics).items()}


def statistic(batch: Batch, criterion: str, trm: TrmConfig) -> torch.Tensor:
    """Return the statistic that the threshold bounds, by the rule for the undecided: (sequences,), float64.

    Raises:
        ValueError: the criterion is not one of `STATISTICS`.
    """
    if criterion not in STATISTICS:
        refuse("criterion", criterion, ", ".join(STATISTICS), "choose one of them")
    interval = sequence_statistic(criterion, trm, batch.tokens)
    return or_infinite(interval.upper if trm.undecided == "reject" else interval.lower)


def threshold_field(criterion: str) -> str:
    """Return the setting that holds a criterion's threshold."""
    return CRITERIA[criterion].thresholds[0].name


def curve(batch: Batch, values: torch.Tensor, thresholds: list[float]) -> list[CurvePoint]:
    """Sweep thresholds: acceptance, its dependence on length, and the rewards on both sides.

    Args:
        batch: the rollouts.
        values: from `statistic`.
        thresholds: in any order.
    """
    points = []
    for threshold in thresholds:
        kept = values <= threshold
        points.append(
            CurvePoint(
                threshold=threshold,
                acceptance=kept.double().mean().item(),
                by_length=acceptance_by_length(batch.lengths, kept.double()).tolist(),
                reward_kept=_mean(batch.reward[kept]),
                reward_rejected=_mean(batch.reward[~kept]),
            )
        )
    return points


def grid(values: torch.Tensor, num: int = 9) -> list[float]:
    """Return thresholds that show the curve: quantiles of the statistic, rounded to two digits."""
    quantiles = [least_threshold(values, (index + 1) / num).item() for index in range(num)]
    return sorted({float(f"{value:.1e}") for value in quantiles if value > 0})


def recommend(values: torch.Tensor, target_acceptance: float) -> float:
    """Return the least threshold that keeps the target share.

    Raises:
        ValueError: if the target is not above 0 and at most 1.
    """
    SHARE.check("target acceptance", target_acceptance, "give one, such as 0.9")
    return least_threshold(values, target_acceptance).item()


def bounds_of(batch: Batch, kept: torch.Tensor, trm: TrmConfig) -> dict[str, float]:
    """Return the paper's bounds from the divergences at the sampled contexts of the kept sequences.

    Ours are of expectations over all rollouts: of a part of them they would bound nothing.
    """
    if not kept.any():
        return {}
    rows = kept.nonzero().flatten()
    part = Batch(batch.tokens.rows(rows), batch.reward[rows], 0)
    names = ("bound_", "effective_horizon")
    found = masked(part, trm).items()
    return {name: value for name, value in found if name.startswith(names) and not name.startswith(OF_EXPECTATIONS)}


def disagreement(dump: Dump, trm: TrmConfig) -> dict[str, int] | None:
    """Count the decisions by sampled k2 and by the dump's own divergence under one threshold of the max criterion.

    Returns:
        Counts: `both_keep`, `both_reject`, `only_sampled_keeps`, `only_sampled_rejects`; None without divergences.
    """
    if not dump.divergences or trm.max_token_kl is None:
        return None
    measured, sampled = (
        replace(trm, criterion="max", estimator=name, target_acceptance=None) for name in ("exact", "sampled")
    )
    by_kl = statistic(load(dump, measured), "max", measured) <= trm.max_token_kl
    by_k2 = statistic(load(dump, sampled), "max", sampled) <= trm.max_token_kl
    return {
        "both_keep": int((by_kl & by_k2).sum()),
        "both_reject": int((~by_kl & ~by_k2).sum()),
        "only_sampled_keeps": int((by_k2 & ~by_kl).sum()),
        "only_sampled_rejects": int((~by_k2 & by_kl).sum()),
    }


def recompute(dump: Dump) -> dict[str, float] | None:
    """Recompute the exact divergences from both engines' whole distributions, where the dump has them.

    With estimator `replayed` the policy in training is cut to the tokens that the rollout could draw.

    Returns:
        The number of tokens compared, the largest differences from the trainer's log, what that of KL has beyond a
        thousandth of it, and the pooled chi2-KL bound from the distributions and from the sampled tokens; without a
        cut also the number of logged KLs outside the interval that the rollout's top `settings["top_k"]` would have
        given. None without distributions.
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
        # of a set that may be larger than its record nothing was logged
        known = logged_kl.isfinite() if is_cut else torch.ones_like(logged_kl, dtype=torch.bool)
        apart = (logged_kl - exact.kl).abs()[known]
        found = {"kl": apart, "tv": (logged_tv - exact.tv).abs()[known], "beyond": apart - 1e-3 * exact.kl[known]}
        largest = {name: max([value, *found[name].tolist()]) for name, value in largest.items()}
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
        num_outside += int(((logged_kl < interval.kl_lower - slack) | (logged_kl > interval.kl_upper + slack)).sum())
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


def _chi2_and_delayed_kl(chi2: torch.Tensor, kl: torch.Tensor) -> torch.Tensor:
    """Return sum_t chi2_t and sum_t (t - 1) KL_t of one sequence, shape (2,), float64."""
    return torch.stack([chi2.sum(), (kl * torch.arange(len(kl))).sum()]).double()


def _mean(values: torch.Tensor) -> float | None:
    known = values[~values.isnan()]
    return known.mean().item() if len(known) else None
