"""The adaptive threshold: a trust region that follows a target acceptance instead of a fixed divergence."""

from collections.abc import Iterable, Mapping
from typing import Any

from trm_agent.config import TrmConfig

# the threshold that would have kept `target_acceptance` of a step's sequences, nats
TARGET_THRESHOLD = "trm/target_threshold"


class AdaptiveThreshold:
    """Gives each step the threshold that would have kept the target share of the step before, within two limits.

    What it gives up: with a fixed threshold the largest divergence of what is trained on is known beforehand. Here the
    threshold grows with the mismatch, so an error that makes all sequences worse goes unseen by the mask until the cap
    holds it; only the cap is a guarantee. It lags by one step.

    Args:
        trm: with `target_acceptance`, `adaptive_floor` and `adaptive_cap`; its `max_token_kl` is the first step's.
        rows: metrics of the steps that an earlier part of the run has written, in order.

    Attributes:
        max_token_kl: threshold of the coming step, nats; None if the settings do not adapt.
    """

    def __init__(self, trm: TrmConfig, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self.trm = trm
        self.max_token_kl = None if trm.target_acceptance is None else self._limited(trm.max_token_kl)
        for row in rows:
            self.observe(row)

    def observe(self, metrics: Mapping[str, Any]) -> None:
        """Take over what a step's metrics say of the next threshold, if they say anything."""
        value = metrics.get(TARGET_THRESHOLD)
        if self.max_token_kl is not None and value is not None:
            self.max_token_kl = self._limited(value)

    def _limited(self, value: Any) -> float:
        return min(max(float(value), self.trm.adaptive_floor), self.trm.adaptive_cap)
