"""What a dump of rollouts tells without model or trainer: other thresholds, growth with depth, the sampler's record."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from trm_agent.core.diagnostics import finite_sequences
from trm_agent.core.divergences import masked_log_ratio
from trm_agent.core.summary import acceptance_by_length, least_threshold, or_infinite, summarize
from trm_agent.core.token_batch import DivergenceBounds, TokenBatch
from trm_agent.trust_region.controls import CONTROLLED
from trm_agent.trust_region.criteria import CRITERIA
from trm_agent.trust_region.dump import Dump
from trm_agent.trust_region.growth import Growth, growth
from trm_agent.trust_region.masking import examine, sequence_statistic
from trm_agent.trust_region.recording import REPLAYED
from trm_agent.trust_region.sampler_check import Draws, SamplerCheck
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
class _Played:
    """See `sampler_check.Played`."""

    step: int
    record: dict[str, Any]
    response_ids: np.ndarray
    response_mask: np.ndarray
    rollout_top_ids: np.ndarray
    rollout_top_log_probs: np.ndarray


@dataclass(frozen=True)
class CurvePoint:
    """Figures of the sequences that one threshold would have kept."""

    threshold: float
    acceptance: float
    by_length: list[float]
    """Acceptance of each quarter of the sequences, from the shortest to the longest."""
    reward_kept: float | None
    reward_rejected: float | None


def repeatable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's settings with those that the tokens of a dump cannot repeat replaced.

    A dump holds the policy of each update, and a part of its sequences: the mask is that of the current policy, at the
    fixed threshold, and in place of a control that decides on whole updates stands the criterion that it controls, or
    `max`.
    """
    found = {**settings, "target_acceptance": None, "mask_policy": "current"}
    row = CRITERIA.get(str(settings.get("criterion")))
    if row is not None and row.whole_batch is not None:
        found["criterion"] = settings["controlled"] if CONTROLLED in row.settings else "max"
    return found


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
    own = dump.settings.get("estimator", trm.estimator)
    if trm.estimator not in ("sampled", own):
        refuse(
            "estimator",
            trm.estimator,
            ", ".join(dict.fromkeys(("sampled", own))),
            f"leave it out, or dump with estimator={trm.estimator}",
            because=f"but the dump's divergences are those of {own}",
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
        measured = DivergenceBounds(**found).of_batch(log_ratio, known=False, replayed=trm.estimator == REPLAYED)
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
        lags=_lags(dump, mask, rows),
        prompt_lengths=None if dump.prompt_lengths is None else torch.from_numpy(dump.prompt_lengths)[rows],
        groups=None if dump.groups is None else torch.from_numpy(dump.groups)[rows],
    )
    return Batch(tokens, reward, int((~rows).sum()))


def masked(batch: Batch, trm: TrmConfig, longest: int | None = None) -> dict[str, float]:
    """Measure the effect of the settings' mask on the batch.

    Args:
        batch: the rollouts.
        trm: the settings.
        longest: see `summarize`.

    Returns:
        The metrics of docs/metrics.md without `trm/`, as training would log them.
    """
    _, statistics = examine(trm, batch.tokens)
    return {name: value.item() for name, value in summarize(statistics, longest).items()}


def depth_growth(batch: Batch, trm: TrmConfig) -> Growth | None:
    """Judge whether the divergence of the average criterion grows with depth; None without the prompts."""
    _, statistics = examine(trm, batch.tokens)
    rows = statistics.sequences
    if not rows.by_depth:
        return None
    finite = finite_sequences(rows)
    return growth(*(rows.by_depth[name][finite].double().numpy() for name in ("known", "depth", "kl")))


def sampler_check(dump: Dump) -> SamplerCheck | None:
    """Test whether the recorded log-probs are the sampler's; None where the most likely tokens were not recorded.

    Raises:
        ValueError: a recorded log-prob is impossible.
    """
    names, draws = [item.name for item in fields(_Played)], Draws()
    columns = [{"record": "episode"}.get(name, name) for name in names]
    if not set(columns) <= set(dump.table.column_names):
        return None
    for step, record, *lists in zip(*(dump.table[name] for name in columns), strict=True):
        if record.is_valid and all(values.is_valid for values in lists):
            arrays = (values.values.to_numpy(zero_copy_only=False) for values in lists)
            draws.add(_Played(step.as_py(), json.loads(record.as_py()), *arrays))
    return draws.check()


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
    """Count the decisions by k2 and by the dump's own divergence under one threshold of the max criterion.

    Returns:
        Counts: `both_keep`, `both_reject`, `only_sampled_keeps`, `only_sampled_rejects`; None without divergences.
    """
    own = dump.settings.get("estimator", "sampled")
    if own == "sampled" or not dump.divergences or trm.max_token_kl is None:
        return None
    measured, sampled = (
        replace(trm, criterion="max", estimator=name, max_estimator="k2", target_acceptance=None)
        for name in (own, "sampled")
    )
    by_kl = statistic(load(dump, measured), "max", measured) <= trm.max_token_kl
    by_k2 = statistic(load(dump, sampled), "max", sampled) <= trm.max_token_kl
    return {
        "both_keep": int((by_kl & by_k2).sum()),
        "both_reject": int((~by_kl & ~by_k2).sum()),
        "only_sampled_keeps": int((by_k2 & ~by_kl).sum()),
        "only_sampled_rejects": int((~by_k2 & by_kl).sum()),
    }


def _lags(dump: Dump, mask: torch.Tensor, rows: torch.Tensor) -> torch.Tensor | None:
    """Return the versions between the policy that sampled each token and the one that its step began with."""
    if dump.rollout_versions is None:
        return None
    lags = torch.from_numpy(dump.step - 1).unsqueeze(-1) - torch.from_numpy(dump.rollout_versions)
    return torch.where(mask, lags[rows], -1)


def _mean(values: torch.Tensor) -> float | None:
    known = values[~values.isnan()]
    return known.mean().item() if len(known) else None
