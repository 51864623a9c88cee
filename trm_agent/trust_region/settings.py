"""Settings of Trust Region Masking: dataclasses without dependencies that own the defaults and the checks."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, make_dataclass, replace
from typing import Any

from trm_agent.names import closest
from trm_agent.trust_region.criteria import CRITERIA, own_settings, parts_of
from trm_agent.trust_region.setting import SHARE, Flag, Number, OneOf, setting, settings_of

FIELD_PATH = "actor_rollout_ref.actor.policy_loss.trm"
DUMP_PATH = "actor_rollout_ref.actor.policy_loss.dump"
ESTIMATORS = ("sampled", "topk", "exact")
MASK_ESTIMATORS = ("k2", "k3", "abs_log_ratio", "abs_ratio_minus_one")
UNDECIDED = ("reject", "accept")


def _criteria(masks_tokens: bool) -> str:
    return "; ".join(f"`{name}`: {row.meaning}" for name, row in CRITERIA.items() if row.masks_tokens == masks_tokens)


@dataclass(frozen=True)
class CommonConfig:
    """The settings that belong to no single criterion."""

    criterion: str = setting(
        "max", OneOf(tuple(CRITERIA)), f"Of sequences: {_criteria(False)}. Of single tokens: {_criteria(True)}."
    )
    estimator: str = setting(
        "sampled",
        OneOf(ESTIMATORS),
        "Source of the token divergences: `sampled`: the sampled tokens' log-probs; `topk`: a certified interval from "
        "the rollout's `top_k` largest; `exact`: both whole distributions.",
    )
    max_estimator: str = setting(
        "k2",
        OneOf(MASK_ESTIMATORS),
        "Sampled divergence of the max criterion: `k2` = (log rho)^2 / 2, `k3` = rho - 1 - log rho, `abs_log_ratio`, "
        "`abs_ratio_minus_one`.",
    )
    avg_estimator: str = setting(
        "k3",
        OneOf(MASK_ESTIMATORS),
        "Sampled divergence of the average criterion; `k3` is unbiased for KL(roll || theta).",
    )
    top_k: int = setting(
        20,
        Number("of 1 or more and whole", lambda value: value >= 1 and isinstance(value, int), kind=int),
        "`topk`: number of the rollout's largest log-probs that are recorded for each token.",
    )
    undecided: str = setting(
        "reject",
        OneOf(UNDECIDED),
        "`topk`: fate of a sequence whose interval holds the threshold; `reject` keeps the guarantee.",
    )
    ratio_truncation: float | None = setting(
        None,
        Number("of 1 or more", lambda value: value >= 1, optional=True),
        "Upper cap on each token's importance ratio in the gradient; null keeps the paper's untruncated ratio.",
    )
    decoupled: bool = setting(
        False,
        Flag(),
        "Three policies: the ratio is taken to the trainer's policy at the start of the step, and the mismatch between "
        "the engines becomes a constant weight. Needs bypass_mode=false.",
    )
    proximal_clip: float | None = setting(
        0.2,
        Number("above 0 and below 1", lambda value: 0 < value < 1, optional=True),
        "`decoupled`: PPO's clip of the ratio to the proximal policy; null: none.",
    )
    target_acceptance: float | None = setting(
        None,
        replace(SHARE, optional=True),
        "Adaptive `max_token_kl`, and `avg_token_kl` with `both`: each step takes the thresholds that would have kept "
        "this share of the last step's sequences, within limits. The trust region then follows the policies: no "
        "divergence is guaranteed but the cap's.",
    )


# the table's fields: one name, one setting
_OWN: Any = make_dataclass(
    "CriteriaConfig",
    [(item.name, item.type, setting(item.default, item.allowed, item.doc)) for item in own_settings()],
    frozen=True,
)


@dataclass(frozen=True)
class TrmConfig(_OWN, CommonConfig):
    """The conditions for a sequence's place in the update (arXiv:2512.23075v4).

    Its fields are those of `CommonConfig` and those that the rows of `CRITERIA` bring.
    Direction of every divergence: KL(roll || theta), the rollout policy first. Unit: nats per token.
    """

    def __post_init__(self) -> None:
        for item in settings_of(type(self)):
            item.allowed.check(f"{FIELD_PATH}.{item.name}", getattr(self, item.name))
        for name in self.thresholds:
            if getattr(self, name) is None:
                raise ValueError(
                    f"{FIELD_PATH}.{name}: got null, but criterion={self.criterion!r} compares with it; "
                    "allowed: a number above 0; set it, or choose another criterion"
                )
        if self.target_acceptance is not None and not CRITERIA[self.criterion].adapts:
            adapting = " or ".join(name for name, row in CRITERIA.items() if row.adapts)
            raise ValueError(
                f"{FIELD_PATH}.target_acceptance: got {self.target_acceptance!r} with criterion={self.criterion!r}, "
                f"whose acceptance no adapted threshold brings to a target; allowed: null, or criterion {adapting}; "
                "set one of them"
            )
        for limits in (row.limits for row in CRITERIA.values() if row.limits):
            floor, cap = getattr(self, limits.floor.name), getattr(self, limits.cap.name)
            if floor > cap:
                raise ValueError(
                    f"{FIELD_PATH}.{limits.floor.name}: got {floor!r}, above {limits.cap.name}={cap!r}; allowed: at "
                    "most the cap; lower it"
                )

    @property
    def thresholds(self) -> tuple[str, ...]:
        """The fields that the criterion compares with."""
        return tuple(item.name for item in CRITERIA[self.criterion].thresholds)

    @property
    def parts(self) -> tuple[str, ...]:
        """The criteria that must all hold."""
        return parts_of(self.criterion)

    @property
    def masks_tokens(self) -> bool:
        """Whether the criterion decides on single tokens."""
        return CRITERIA[self.criterion].masks_tokens

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
    """The record that the `trm` loss writes of its sequences.

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
    """Folder; null: `rollouts/` in the run's folder, without our trainer in verl's `trainer.default_local_dir`."""

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
