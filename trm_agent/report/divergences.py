"""Token divergences of a row, as its run's trust region measured them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trm_agent.report.rows import Row
from trm_agent.trust_region.criteria import CRITERIA

_SAMPLED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "k2": lambda log_ratio: log_ratio**2 / 2,
    "k3": lambda log_ratio: np.expm1(log_ratio) - log_ratio,
    "abs_log_ratio": np.abs,
    "abs_ratio_minus_one": lambda log_ratio: np.abs(np.expm1(log_ratio)),
}


@dataclass(frozen=True)
class Measured:
    """Divergences of the model's tokens of a row, in order: shape (model tokens,), float64."""

    kind: str
    """Source: `measured` (whole or top-K distributions), a sampled estimator, or `surprise` (-log p, no trainer)."""
    value: np.ndarray
    """Values that colour the tokens, nats: the divergence's upper bound, or the surprise."""
    lower: np.ndarray | None
    """Lower bound of a measured divergence."""
    log_ratio: np.ndarray | None
    rollout_log_probs: np.ndarray | None
    violates: np.ndarray
    """bool: outside of the threshold on single tokens."""


def measure(row: Row) -> Measured:
    """Return the divergences that a row's file holds, else those of the sampled log-probs, else the surprise."""
    mask = row.response_mask
    rollout, log_probs, lower, upper = (
        None if values is None else values[mask].astype(np.float64)
        for values in (row.rollout_log_probs, row.log_probs, row.kl_lower, row.kl_upper)
    )
    known = log_probs is not None and rollout is not None and not np.isnan(log_probs).all()
    log_ratio = log_probs - rollout if known and log_probs is not None and rollout is not None else None
    none = np.zeros(int(mask.sum()), dtype=bool)
    if upper is not None and not np.isnan(upper).all():
        violates = _outside(upper if row.settings.get("undecided") != "accept" else lower, row.settings)
        return Measured("measured", upper, lower, log_ratio, rollout, none if violates is None else violates)
    if log_ratio is not None:
        kind = row.settings.get("max_estimator", "k2")
        with np.errstate(over="ignore", invalid="ignore"):
            value = _SAMPLED.get(kind, _SAMPLED["k2"])(log_ratio)
        violates = _outside(value, row.settings)
        return Measured(kind, value, None, log_ratio, rollout, none if violates is None else violates)
    surprise = np.full(len(none), np.nan) if rollout is None else -rollout
    return Measured("surprise", surprise, None, None, rollout, none)


def threshold(settings: Mapping[str, Any]) -> float | None:
    """Return the largest divergence that a single token may have, nats; None where the settings have none."""
    value = settings.get("max_token_kl")
    return float(value) if isinstance(value, (int, float)) else None


def compares_tokens(settings: Mapping[str, Any]) -> bool:
    """Return True if the run's own criterion compares single tokens with that threshold."""
    row = CRITERIA.get(str(settings.get("criterion")))
    return row is not None and any(item.name == "max_token_kl" for item in row.thresholds)


def _outside(value: np.ndarray | None, settings: Mapping[str, Any]) -> np.ndarray | None:
    limit = threshold(settings)
    if value is None or limit is None:
        return None
    # non-finite numbers are outside, as in the mask; float32, because the mask compares such numbers
    return ~(value.astype(np.float32) <= np.float32(limit))
