"""Settings of what a run learns from: groups with signal, over-long episodes, and a curriculum over horizons."""

from __future__ import annotations

from dataclasses import dataclass, replace

from trm_fields import COUNT, ZERO_TO_ONE, Flag, Number, OneOf, setting

KEEP, MASK, PENALTY = "keep", "mask", "penalty"
STOP, TRAIN_SHORT = "stop", "train"
REWARD, SUCCESS = "reward", "acc"
FILTER_METRICS = (REWARD, SUCCESS)
"""Values of `algorithm.filter_groups.metric`: the episode's reward, and whether it succeeded."""


@dataclass(frozen=True)
class CurriculumConfig:
    """A draw of training horizons that follows measured success."""

    enable: bool = setting(
        False,
        Flag(),
        "Whether training draws horizons by success instead of in turn: often those whose recent success is between "
        "`low` and `high`, seldom those that always succeed or always fail ([dynamic sampling](dynamic_sampling.md)).",
    )
    floor_share: float = setting(
        0.1, ZERO_TO_ONE, "Least share of the tasks that each horizon keeps; at most 1 over the number of horizons."
    )
    low: float = setting(0.2, ZERO_TO_ONE, "Success below which a horizon is drawn less often, down to 0.")
    high: float = setting(0.8, ZERO_TO_ONE, "Success above which a horizon is drawn less often, up to 1.")
    memory_groups: int = setting(
        32, COUNT, "Groups of a horizon over which its exponential mean of success forgets, by a factor of e."
    )


@dataclass(frozen=True)
class OverlongConfig:
    """What becomes of training episodes that run out of tokens, or nearly."""

    treatment: str = setting(
        KEEP,
        OneOf((KEEP, MASK, PENALTY)),
        "Training episodes that are too long: `keep` trains on their reward as it is, `mask` leaves those that ended "
        "for want of tokens out of the loss and of the group's baseline, `penalty` takes something off the reward of "
        "those that end within `buffer_tokens` of `data.max_response_length` "
        "([dynamic sampling](dynamic_sampling.md#over-long-episodes)).",
    )
    buffer_tokens: int | None = setting(
        None,
        replace(COUNT, optional=True),
        "With `penalty`: the last tokens of `data.max_response_length`, over which the penalty grows from 0.",
    )
    penalty_factor: float = setting(
        1.0, Number("above 0", lambda value: value > 0), "With `penalty`: what an episode of full length loses."
    )
