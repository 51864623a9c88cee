"""Settings of Trust Region Masking: a dataclass without dependencies that owns the defaults and the checks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from trm_agent.names import closest

FIELD_PATH = "actor_rollout_ref.actor.policy_loss.trm"
CRITERIA = ("max", "avg", "both")
ESTIMATORS = ("sampled",)
MASK_ESTIMATORS = ("k2", "k3")


@dataclass(frozen=True)
class TrmConfig:
    """How a sequence earns its place in the update (arXiv:2512.23075v4).

    Direction of every divergence: KL(roll || theta), the rollout policy first. Unit: nats per token.
    """

    criterion: str = "max"
    """`max`: no token above `max_token_kl`; `avg`: mean over tokens within `avg_token_kl`; `both`: the two together."""
    max_token_kl: float | None = 0.05
    """Threshold of the max criterion."""
    avg_token_kl: float | None = 0.001
    """Threshold of the average criterion."""
    max_estimator: str = "k2"
    """Token divergence of the max criterion: `k2` = (log rho)^2 / 2, `k3` = rho - 1 - log rho."""
    avg_estimator: str = "k3"
    """Token divergence of the average criterion; `k3` is unbiased for KL(roll || theta)."""
    ratio_truncation: float | None = None
    """Upper cap on each token's importance ratio in the gradient; null keeps the paper's untruncated ratio."""
    estimator: str = "sampled"
    """What the token divergences are made from: the log-probabilities of the sampled tokens."""

    def __post_init__(self) -> None:
        _check_name("criterion", self.criterion, CRITERIA)
        _check_name("estimator", self.estimator, ESTIMATORS)
        _check_name("max_estimator", self.max_estimator, MASK_ESTIMATORS)
        _check_name("avg_estimator", self.avg_estimator, MASK_ESTIMATORS)
        for name in ("max_token_kl", "avg_token_kl"):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name), at_least=None)
        for name in self._used_thresholds():
            if getattr(self, name) is None:
                raise ValueError(
                    f"{FIELD_PATH}.{name}: got null, but criterion={self.criterion!r} compares with it; "
                    "allowed: a number above 0; set it, or choose another criterion"
                )
        if self.ratio_truncation is not None:
            _check_number("ratio_truncation", self.ratio_truncation, at_least=1.0)

    def _used_thresholds(self) -> tuple[str, ...]:
        return {"max": ("max_token_kl",), "avg": ("avg_token_kl",), "both": ("max_token_kl", "avg_token_kl")}[
            self.criterion
        ]

    @property
    def active_max_token_kl(self) -> float | None:
        """`max_token_kl` if the criterion uses it, else None."""
        return self.max_token_kl if self.criterion in ("max", "both") else None

    @property
    def active_avg_token_kl(self) -> float | None:
        """`avg_token_kl` if the criterion uses it, else None."""
        return self.avg_token_kl if self.criterion in ("avg", "both") else None

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "TrmConfig":
        """Build the settings from a mapping, for example a node of the Hydra tree.

        Args:
            values: field name -> value; absent fields keep their defaults, Hydra's `_target_` is ignored.

        Raises:
            ValueError: for a field that does not exist (the closest one is named) or a value that is not allowed.
        """
        names = [field.name for field in fields(cls)]
        given = {name: value for name, value in values.items() if name != "_target_"}
        for name in given:
            if name not in names:
                raise ValueError(f"{FIELD_PATH}.{name}: no such field; {closest(str(name), names)}")
        return cls(**given)


def _check_name(field: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{FIELD_PATH}.{field}: got {value!r}, which does not exist; {closest(str(value), allowed)}")


def _check_number(field: str, value: Any, *, at_least: float | None) -> None:
    allowed = "a finite number above 0" if at_least is None else f"null or a finite number of {at_least:g} or more"
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or (value <= 0 if at_least is None else value < at_least):
        hint = "write it without quotes" if isinstance(value, str) else "see docs/configuration.md for common values"
        raise ValueError(f"{FIELD_PATH}.{field}: got {value!r}; allowed: {allowed}; {hint}")
