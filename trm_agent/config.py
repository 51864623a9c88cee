"""Settings of Trust Region Masking: a dataclass without dependencies that owns the defaults and the checks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from trm_agent.names import closest

FIELD_PATH = "actor_rollout_ref.actor.policy_loss.trm"
DUMP_PATH = "actor_rollout_ref.actor.policy_loss.dump"
# criterion -> the thresholds that it compares with
CRITERIA: dict[str, tuple[str, ...]] = {
    "max": ("max_token_kl",),
    "avg": ("avg_token_kl",),
    "both": ("max_token_kl", "avg_token_kl"),
    "ln": ("length_neutral", "max_token_kl"),
    "ser": ("ratio_deviation",),
    "random": ("random_acceptance",),
    "token": ("max_token_kl",),
    "prefix": ("token_tv",),
}
TOKEN_CRITERIA = ("token", "prefix")
ESTIMATORS = ("sampled", "topk", "exact")
MASK_ESTIMATORS = ("k2", "k3", "abs_log_ratio", "abs_ratio_minus_one")
UNDECIDED = ("reject", "accept")


@dataclass(frozen=True)
class TrmConfig:
    """How a sequence earns its place in the update (arXiv:2512.23075v4).

    Direction of every divergence: KL(roll || theta), the rollout policy first. Unit: nats per token.
    """

    criterion: str = "max"
    """Of sequences: `max`: no token above `max_token_kl`; `avg`: mean over tokens within `avg_token_kl`; `both`;
    `ln`: the paper's length-neutral W / Z within `length_neutral`; `ser`: mean |rho - 1| within `ratio_deviation`;
    `random`: a coin at `random_acceptance`. Of single tokens: `token`: those within `max_token_kl`, `prefix`: CPPO's
    and DPPO's mask on `token_tv`."""
    max_token_kl: float | None = 0.05
    """Threshold of the max criterion; delta of `ln`."""
    avg_token_kl: float | None = 0.001
    """Threshold of the average criterion."""
    length_neutral: float | None = 0.05
    """Threshold of W / Z, unitless."""
    max_token_tv: float | None = None
    """eps of `ln`, the largest token total variation; null derives it from `max_token_kl` by Pinsker."""
    ratio_deviation: float | None = 0.05
    """Threshold of SER, unitless; the paper uses 0.03 to 0.10."""
    random_acceptance: float | None = 0.9
    """Share of sequences that `random` keeps."""
    token_tv: float | None = 0.2
    """Threshold of `prefix`, total variation."""
    min_position_weight: float = 0.8
    """`prefix`: weight of the last token, falling linearly from 1 at the first; 1 weighs all alike."""
    prefix_budget: float | None = 0.02
    """`prefix`: what the weighted mean divergence of the prefix may reach; null: no budget (DPPO's mask)."""
    estimator: str = "sampled"
    """What the token divergences are made from: `sampled`: the sampled tokens' log-probs; `topk`: a certified interval
    from the rollout's `top_k` largest; `exact`: both whole distributions."""
    max_estimator: str = "k2"
    """Sampled divergence of the max criterion: `k2` = (log rho)^2 / 2, `k3` = rho - 1 - log rho, `abs_log_ratio`,
    `abs_ratio_minus_one`."""
    avg_estimator: str = "k3"
    """Sampled divergence of the average criterion; `k3` is unbiased for KL(roll || theta)."""
    top_k: int = 20
    """How many of the rollout's largest log-probs `topk` records for each token."""
    undecided: str = "reject"
    """`topk`: what happens to a sequence whose interval holds the threshold; `reject` keeps the guarantee."""
    ratio_truncation: float | None = None
    """Upper cap on each token's importance ratio in the gradient; null keeps the paper's untruncated ratio."""
    decoupled: bool = False
    """Three policies: the ratio is taken to the trainer's policy at the start of the step, and the mismatch between
    the engines becomes a constant weight. Needs bypass_mode=false."""
    proximal_clip: float | None = 0.2
    """`decoupled`: PPO's clip of the ratio to the proximal policy; null: none."""
    target_acceptance: float | None = None
    """Adaptive `max_token_kl`, and `avg_token_kl` with `both`: each step takes the thresholds that would have kept this
    share of the last step's sequences, within the limits below. The trust region then follows the policies: no
    divergence is guaranteed but the cap's."""
    adaptive_floor: float = 0.001
    """Least adaptive `max_token_kl`, nats."""
    adaptive_cap: float = 0.5
    """Largest adaptive `max_token_kl`, nats."""
    adaptive_avg_floor: float = 0.00002
    """Least adaptive `avg_token_kl`, nats."""
    adaptive_avg_cap: float = 0.01
    """Largest adaptive `avg_token_kl`, nats."""

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(
                    f"{FIELD_PATH}.{name}: got {value!r}, which does not exist; {closest(str(value), choices)}"
                )
        for name, rule in _NUMBERS.items():
            _check_number(name, getattr(self, name), *rule)
        for name in self.thresholds:
            if getattr(self, name) is None:
                raise ValueError(
                    f"{FIELD_PATH}.{name}: got null, but criterion={self.criterion!r} compares with it; "
                    "allowed: a number above 0; set it, or choose another criterion"
                )
        if not isinstance(self.decoupled, bool):
            raise ValueError(f"{FIELD_PATH}.decoupled: got {self.decoupled!r}; allowed: true or false; write one")
        if self.target_acceptance is not None and self.criterion not in ("max", "both"):
            raise ValueError(
                f"{FIELD_PATH}.target_acceptance: got {self.target_acceptance!r} with criterion={self.criterion!r}, "
                "whose acceptance no adapted max_token_kl brings to a target; allowed: null, or criterion max or both; "
                "set one of them"
            )
        for name in ("adaptive", "adaptive_avg"):
            floor, cap = getattr(self, f"{name}_floor"), getattr(self, f"{name}_cap")
            if floor > cap:
                raise ValueError(
                    f"{FIELD_PATH}.{name}_floor: got {floor!r}, above {name}_cap={cap!r}; allowed: at most the cap; "
                    "lower it"
                )

    @property
    def thresholds(self) -> tuple[str, ...]:
        """The fields that the criterion compares with."""
        return CRITERIA[self.criterion]

    @property
    def masks_tokens(self) -> bool:
        """Whether the criterion decides on single tokens."""
        return self.criterion in TOKEN_CRITERIA

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


@dataclass(frozen=True)
class DumpConfig:
    """What the `trm` loss writes of the sequences that it sees.

    Raises:
        ValueError: if a value is not allowed.
    """

    every: int = 10
    """Steps between two dumps; 0 writes none."""
    max_sequences: int = 64
    """Sequences written of an update on each rank."""
    max_files: int = 100
    """Newest files that are kept, over all steps."""
    distributions: bool = False
    """Also both whole distributions of each token (estimator `exact`): large."""
    directory: str | None = None
    """Where; the run's folder by default."""

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "DumpConfig":
        """Build the settings from a mapping, for example a node of the Hydra tree.

        Raises:
            ValueError: for a field that does not exist (the closest one is named) or a value that is not allowed.
        """
        names = [field.name for field in fields(cls)]
        for name in values:
            if name not in names:
                raise ValueError(f"{DUMP_PATH}.{name}: no such field; {closest(str(name), names)}")
        return cls(**values)

    def __post_init__(self) -> None:
        for name, least in (("every", 0), ("max_sequences", 1), ("max_files", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(
                    f"{DUMP_PATH}.{name}: got {value!r}; allowed: a whole number of {least} or more; change it"
                )


_CHOICES: dict[str, tuple[str, ...]] = {
    "criterion": tuple(CRITERIA),
    "estimator": ESTIMATORS,
    "max_estimator": MASK_ESTIMATORS,
    "avg_estimator": MASK_ESTIMATORS,
    "undecided": UNDECIDED,
}
_ABOVE_0 = ("above 0", lambda value: value > 0)
_SHARE = ("above 0 and at most 1", lambda value: 0 < value <= 1)
# field -> (may be null, what is allowed in words, and as a test)
_NUMBERS: dict[str, tuple[bool, str, Any]] = {
    "max_token_kl": (True, *_ABOVE_0),
    "avg_token_kl": (True, *_ABOVE_0),
    "length_neutral": (True, *_ABOVE_0),
    "max_token_tv": (True, *_SHARE),
    "ratio_deviation": (True, *_ABOVE_0),
    "random_acceptance": (True, *_SHARE),
    "token_tv": (True, *_SHARE),
    "min_position_weight": (False, *_SHARE),
    "prefix_budget": (True, *_SHARE),
    "ratio_truncation": (True, "of 1 or more", lambda value: value >= 1),
    "proximal_clip": (True, "above 0 and below 1", lambda value: 0 < value < 1),
    "target_acceptance": (True, *_SHARE),
    "adaptive_floor": (False, *_ABOVE_0),
    "adaptive_cap": (False, *_ABOVE_0),
    "adaptive_avg_floor": (False, *_ABOVE_0),
    "adaptive_avg_cap": (False, *_ABOVE_0),
    "top_k": (False, "of 1 or more and whole", lambda value: value >= 1 and isinstance(value, int)),
}


def _check_number(field: str, value: Any, may_be_null: bool, allowed: str, is_allowed: Any) -> None:
    if value is None and may_be_null:
        return
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not is_allowed(value):
        hint = "write it without quotes" if isinstance(value, str) else "see docs/configuration.md for common values"
        null = "null or " if may_be_null else ""
        raise ValueError(f"{FIELD_PATH}.{field}: got {value!r}; allowed: {null}a finite number {allowed}; {hint}")
