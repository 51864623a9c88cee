"""Settings of Trust Region Masking: dataclasses without dependencies that own the defaults and the checks."""

from collections.abc import Mapping
from dataclasses import dataclass, make_dataclass, replace
from typing import Any

from trm_agent.trust_region.controls import OF_SEQUENCES
from trm_agent.trust_region.criteria import CRITERIA, own_settings, parts_of
from trm_agent.trust_region.criterion import CLIP, KL_ESTIMATORS
from trm_fields import COUNT, LEAST_0, SHARE, Flag, Number, OneOf, Text, build, check_settings, refuse, setting

FIELD_PATH = "actor_rollout_ref.actor.policy_loss.trm"
DUMP_PATH = "actor_rollout_ref.actor.policy_loss.dump"
ESTIMATORS = ("sampled", "topk", "exact", "replayed")
MASK_ESTIMATORS = (*KL_ESTIMATORS, "abs_log_ratio", "abs_ratio_minus_one")
UNDECIDED = ("reject", "accept")
MASK_POLICIES = ("current", "start_of_step")


def _criteria(masks_tokens: bool) -> str:
    return "; ".join(f"`{name}`: {row.meaning}" for name, row in CRITERIA.items() if row.masks_tokens == masks_tokens)


@dataclass(frozen=True)
class CommonConfig:
    """The settings that all criteria share."""

    criterion: str = setting(
        "max", OneOf(tuple(CRITERIA)), f"Of sequences: {_criteria(False)}. Of single tokens: {_criteria(True)}."
    )
    estimator: str = setting(
        "sampled",
        OneOf(ESTIMATORS),
        "Source of the token divergences: `sampled`: the sampled tokens' log-probs; `topk`: a certified interval from "
        "the rollout's `top_k` largest; `exact`: both whole distributions; `replayed`: both policies, exactly, on the "
        "tokens that `top_k` and `top_p` of `actor_rollout_ref.rollout` let the rollout draw from.",
    )
    max_estimator: str = setting(
        "k2",
        OneOf(MASK_ESTIMATORS),
        "Sampled divergence of the max criterion: `k2` = (log rho)^2 / 2, `k3` = rho - 1 - log rho; `abs_log_ratio` "
        "and `abs_ratio_minus_one` are no KL: `max_token_kl` is then in their unit, and no bound follows from it.",
    )
    avg_estimator: str = setting(
        "k3",
        OneOf(MASK_ESTIMATORS),
        "Sampled divergence of the average criterion; `k3` is unbiased for KL(roll || theta). `abs_log_ratio` and "
        "`abs_ratio_minus_one` are no KL: `avg_token_kl` and `cumulative_kl` are then in their unit, and no bound "
        "follows from them.",
    )
    top_k: int = setting(
        20,
        COUNT,
        "`topk`: number of the rollout's largest log-probs that are recorded for each token.",
    )
    undecided: str = setting(
        "reject",
        OneOf(UNDECIDED),
        "`topk`, `replayed`: fate of a sequence whose interval holds the threshold; `reject` keeps the guarantee.",
    )
    mask_policy: str = setting(
        "current",
        OneOf(MASK_POLICIES),
        "Policy that is compared with the rollout: `current`: that of each forward pass, as in the paper; "
        "`start_of_step`: the trainer's before the step's first update. The latter needs a forward pass of its own, so "
        "bypass_mode=false, estimator=sampled, and a criterion that looks at a divergence.",
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
        CLIP,
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
        check_settings(self, FIELD_PATH)
        for name in self.thresholds:
            if getattr(self, name) is None:
                refuse(
                    f"{FIELD_PATH}.{name}",
                    None,
                    "a number above 0",
                    "set it, or choose another criterion",
                    because=f"but criterion={self.criterion!r} compares with it",
                )
        self._check_controlled()
        self._check_mask_policy()
        if self.target_acceptance is not None and not CRITERIA[self.criterion].adapts:
            adapting = " or ".join(name for name, row in CRITERIA.items() if row.adapts)
            refuse(
                f"{FIELD_PATH}.target_acceptance",
                self.target_acceptance,
                f"null, or criterion {adapting}",
                "set one of them",
                because=f"with criterion={self.criterion!r}, whose acceptance no adapted threshold brings to a target",
            )
        for limits in (row.limits for row in CRITERIA.values() if row.limits):
            floor, cap = getattr(self, limits.floor.name), getattr(self, limits.cap.name)
            if floor > cap:
                refuse(
                    f"{FIELD_PATH}.{limits.floor.name}",
                    floor,
                    "at most the cap",
                    "lower it",
                    because=f"above {limits.cap.name}={cap!r}",
                )

    @property
    def thresholds(self) -> tuple[str, ...]:
        """Return the fields that hold the thresholds which must be set."""
        return tuple(item.name for item in CRITERIA[self.compared].thresholds)

    @property
    def compared(self) -> str:
        """Return the criterion that decides: the controlled one under `inverse` and `permuted`."""
        return self.controlled if self._has("controlled") else self.criterion

    @property
    def needs_paired_run(self) -> bool:
        """Return True if the criterion takes its acceptance from another run."""
        return self._has("yoked_run")

    @property
    def starts_with_log_probs(self) -> bool:
        """Return True if verl must compute the trainer's log-probs before the step's first update."""
        return self.decoupled or self.mask_policy == "start_of_step"

    @property
    def decides_on_whole_batch(self) -> bool:
        """Return True if all sequences of an update are decided on at once."""
        return CRITERIA[self.criterion].whole_batch is not None

    @property
    def parts(self) -> tuple[str, ...]:
        """Return the criteria that must all hold."""
        return parts_of(self.criterion)

    @property
    def masks_tokens(self) -> bool:
        """Return True if the criterion decides on single tokens."""
        return CRITERIA[self.compared].masks_tokens

    def _has(self, name: str) -> bool:
        return any(item.name == name for item in CRITERIA[self.criterion].settings)

    def _check_controlled(self) -> None:
        if self.decides_on_whole_batch and self.masks_tokens:
            refuse(
                f"{FIELD_PATH}.controlled",
                self.controlled,
                ", ".join(OF_SEQUENCES),
                "choose one of them, or criterion=inverse, which takes those of tokens too",
                because=f"with criterion={self.criterion!r}, which shuffles decisions on whole sequences",
            )

    def _check_mask_policy(self) -> None:
        start = self.mask_policy == "start_of_step"
        if start and self.estimator != "sampled":
            refuse(
                f"{FIELD_PATH}.estimator",
                self.estimator,
                "sampled",
                "set it, or mask_policy=current",
                because="with mask_policy='start_of_step', of whose forward pass only the sampled log-probs are kept",
            )
        if start and self.decides_on_whole_batch and not self._has("controlled"):
            refuse(
                f"{FIELD_PATH}.mask_policy",
                self.mask_policy,
                "current",
                "leave it out, with algorithm.rollout_correction.bypass_mode=true",
                because=f"with criterion={self.criterion!r}, which looks at no divergence: its forward pass would "
                "decide nothing",
            )
        if not start and self.decides_on_whole_batch and self._has("controlled"):
            refuse(
                f"{FIELD_PATH}.mask_policy",
                self.mask_policy,
                "start_of_step",
                "choose policy_loss=trm_permuted, which sets it, or set it with bypass_mode=false",
                because=f"with criterion={self.criterion!r}, which needs the decisions on a whole update before its "
                "first micro-batch",
            )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "TrmConfig":
        """Build the settings from a mapping, for example a node of the Hydra tree.

        Args:
            values: field name -> value; absent fields keep their defaults, Hydra's `_target_` is ignored.

        Raises:
            ValueError: for a field that does not exist (the closest one is named) or a value that is not allowed.
        """
        return build(cls, values, FIELD_PATH)


@dataclass(frozen=True)
class DumpConfig:
    """The record that the `trm` loss writes of its sequences.

    Raises:
        ValueError: if a value is not allowed.
    """

    every: int = setting(
        10,
        LEAST_0,
        "Steps between two dumps; step 1 has one too (not the first after `trainer.resume_from_path`); 0 writes none.",
    )
    max_sequences: int | None = setting(
        128,
        replace(COUNT, optional=True),
        "Sequences of a step that are written, over all ranks: whole groups, as many as fit and at least one, chosen "
        "by a hash of seed, step and task; of several updates with batches of their own (`separate_async`) each has an "
        "equal part, and at least one group; null: all.",
    )
    max_files: int = setting(100, COUNT, "Newest files that are kept, over all steps.")
    distributions: bool = setting(
        False, Flag(), "Also both whole distributions of each token (estimator `exact`, `replayed`): large."
    )
    directory: str | None = setting(
        None,
        Text(optional=True),
        "Folder; null: `rollouts/` in the run's folder, without our trainer in verl's `trainer.default_local_dir`.",
    )

    def __post_init__(self) -> None:
        check_settings(self, DUMP_PATH)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "DumpConfig":
        """Build the settings from a mapping, for example a node of the Hydra tree.

        Raises:
            ValueError: for a field that does not exist (the closest one is named) or a value that is not allowed.
        """
        return build(cls, values, DUMP_PATH)
