"""The form of a row of the table of criteria, and what several rows share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trm_fields import ABOVE_0, SHARE, Number, Setting

if TYPE_CHECKING:
    from torch import Tensor

    from trm_agent.core.masks import Interval

POSITIVE, FRACTION = replace(ABOVE_0, optional=True), replace(SHARE, optional=True)
CLIP = Number("above 0 and below 1", lambda value: 0 < value < 1, optional=True)
# the estimators of which a token's divergence is that of its context, whatever was drawn there
OF_CONTEXTS = ("exact", "topk", "replayed")
# those of them that know some contexts between bounds alone
WITH_BOUNDS = ("topk", "replayed")

# sampled divergences that estimate a KL in nats; the others are none, and no bound follows from their thresholds
KL_ESTIMATORS = ("k2", "k3")
OF_MAX, OF_AVG = "max_estimator", "avg_estimator"


@dataclass(frozen=True)
class Guarantee:
    """What the guarantee of a criterion rests on; the first table of docs/criteria.md has it in words."""

    premise: str | None
    """What must hold beside the divergences that are measured, and no run can show; None: nothing."""
    compared: tuple[str, ...]
    """Settings that name the sampled divergences which are compared with a threshold in nats; empty where ratios
    decide."""

    @property
    def of_contexts(self) -> bool:
        """True if the decision must depend on the contexts of a sequence, and not on the tokens that were drawn."""
        return bool(self.compared)


@dataclass(frozen=True)
class Limits:
    """Range of an adaptive threshold."""

    metric: str
    """Metric that reports the threshold which would have kept `target_acceptance` of a step."""
    floor: Setting
    """Least value."""
    cap: Setting
    """Largest value."""


@dataclass(frozen=True)
class Criterion:
    """A rule for sequences or tokens, with one of `statistic`, `keeps`, `parts`, `control` and `whole_batch`."""

    meaning: str
    """Rule in one clause, as the documentation of `criterion` prints it."""
    thresholds: tuple[Setting, ...]
    """Settings that may not be null with this criterion; a statistic is compared with the first."""
    statistic: Callable[..., Interval] | None = None
    """Function that returns a number for each sequence, shape (batch,), inside up to the threshold. It takes the batch,
    and the row's other settings by name."""
    keeps: Callable[..., Tensor] | None = None
    """Function that decides without a statistic: True on the sequences that stay, shape (batch,), or with
    `masks_tokens` on the tokens, shape (batch, response_length). It takes the batch, whose divergences are then one
    bound of the interval, and the row's settings by name."""
    masks_tokens: bool = False
    """True if the criterion decides on single tokens; a control does if the criterion `controlled` does."""
    settings: tuple[Setting, ...] = ()
    """Further settings, which may be null if their range says so."""
    parts: tuple[str, ...] = ()
    """Criteria that must all hold."""
    limits: Limits | None = None
    """Limits of its threshold if that adapts."""
    adapts: bool = False
    """True if `target_acceptance` may be set with the criterion."""
    control: Callable[[Tensor], Tensor] | None = None
    """Function of the decisions of the criterion `controlled`, bool, shape (batch,), or (batch, response_length) where
    that one decides on tokens: True on what stays in their place."""
    whole_batch: Callable[..., Tensor] | None = None
    """Function that decides on all sequences of an update at once. It takes their `core.controls.Sequences`, a
    generator of random numbers and the row's thresholds by name, and returns True on those that stay, shape
    (batch,)."""
    guarantee: Guarantee | None = None
    """What its guarantee rests on; None where it has none."""

    @property
    def without_premise(self) -> bool:
        """True if it has a guarantee that needs no premise beyond the divergence of each context."""
        return self.guarantee is not None and self.guarantee.premise is None


WITHOUT_PREMISE = Guarantee(None, (OF_MAX,))
IN_EVERY_CONTEXT = Guarantee("the threshold holds in every reachable context", (OF_MAX,))
ON_EVERY_PATH = Guarantee("the mean of every reachable path is within the threshold", (OF_AVG,))
MAX_TOKEN_KL = Setting(
    "max_token_kl",
    0.05,
    POSITIVE,
    "Threshold of a single token for `max`, `both`, `directional`, `inward`, `negative_only`, `token`, `stop` and "
    "`stop_directional`, delta of `ln`; nats.",
)
AVG_TOKEN_KL = Setting("avg_token_kl", 0.001, POSITIVE, "Threshold of `avg`, `both` and `prefix_avg`; nats.")
MAX_LIMITS = Limits(
    "trm/target_threshold",
    Setting("adaptive_floor", 0.001, ABOVE_0, "Least adaptive `max_token_kl`, nats."),
    Setting("adaptive_cap", 0.5, ABOVE_0, "Largest adaptive `max_token_kl`, nats."),
)
AVG_LIMITS = Limits(
    "trm/target_threshold_avg",
    Setting("adaptive_avg_floor", 0.00002, ABOVE_0, "Least adaptive `avg_token_kl`, nats."),
    Setting("adaptive_avg_cap", 0.01, ABOVE_0, "Largest adaptive `avg_token_kl`, nats."),
)
