"""Adaptive thresholds: a trust region that follows a target acceptance instead of a fixed divergence."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from trm_agent.core.summary import common_thresholds
from trm_agent.trust_region.criteria import CRITERIA
from trm_agent.trust_region.settings import TrmConfig

# criterion -> metric: the threshold that would have kept `target_acceptance` of a step's sequences
TARGET_THRESHOLDS = {name: row.limits.metric for name, row in CRITERIA.items() if row.limits}


@dataclass(frozen=True)
class DecidedBy:
    """The statistics that the mask compared with its thresholds, over one or more updates.

    verl averages the reports of a step's updates by `+` and `/`. A mean of quantiles is not a quantile; the mean of
    these objects is their collection, in which every update counts alike, as in `trm/acceptance`.
    """

    target_acceptance: float
    updates: tuple[dict[str, list[float]], ...]
    """Statistics of each update: criterion -> one number per sequence, nats."""

    def __add__(self, other: "DecidedBy") -> "DecidedBy":
        return DecidedBy(self.target_acceptance, self.updates + other.updates)

    def __truediv__(self, count: int) -> "DecidedBy":
        return self

    def thresholds(self) -> dict[str, float]:
        """Return the thresholds whose acceptance, averaged over the updates, is the target: metric -> nats.

        Infinity where the target needs a sequence whose divergence is not finite. See `common_thresholds`.
        """
        sizes = [len(next(iter(update.values()))) for update in self.updates]
        weights = torch.cat([torch.full((size,), 1 / size, dtype=torch.float64) for size in sizes])
        statistics = {
            name: torch.tensor([value for update in self.updates for value in update[name]], dtype=torch.float64)
            for name in self.updates[0]
        }
        found = common_thresholds(statistics, weights, self.target_acceptance)
        return {TARGET_THRESHOLDS[name]: value.item() for name, value in found.items()}


class AdaptiveThreshold:
    """Thresholds for each step that would have kept the target share of the step before, within limits.

    This has a price: a fixed threshold bounds the divergence of the training data beforehand. Here the threshold grows
    with the mismatch, so the mask does not see an error that makes all sequences worse until the cap holds it; only the
    cap is a guarantee. The thresholds lag by one step.

    Args:
        trm: the settings, with `target_acceptance` and the limits; their thresholds are the first step's.
        rows: metrics of the steps that an earlier part of the run has written, in order of the steps.

    Attributes:
        thresholds: field of `TrmConfig` -> its value in the coming step; empty if the settings do not adapt.
    """

    def __init__(self, trm: TrmConfig, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self.trm = trm
        self.thresholds: dict[str, float] = {}
        for name in trm.parts if trm.target_acceptance is not None else ():
            field = CRITERIA[name].thresholds[0].name
            self.thresholds[field] = self._limited(name, getattr(trm, field))
        for row in rows:
            self.observe(row)

    def observe(self, metrics: Mapping[str, Any]) -> None:
        """Adopt the thresholds that a step's metrics name, if any.

        None is infinity, which metrics.jsonl cannot hold: a resumed run continues like an unbroken one.
        """
        for name, metric in TARGET_THRESHOLDS.items():
            field = CRITERIA[name].thresholds[0].name
            if field in self.thresholds and metric in metrics:
                self.thresholds[field] = self._limited(name, metrics[metric])

    def _limited(self, criterion: str, value: Any) -> float:
        limits = CRITERIA[criterion].limits
        assert limits is not None, "a criterion that adapts has limits"
        value = math.inf if value is None else float(value)
        return min(max(value, getattr(self.trm, limits.floor.name)), getattr(self.trm, limits.cap.name))
