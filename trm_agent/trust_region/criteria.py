"""The table of criteria, which decide whether a sequence or token stays in the update: one function and one row each.

Settings, mask, adaptive thresholds, `trm analyze` and the report read the table. A row brings its own settings, and its
function gets those by name. The functions import the core when they run, so that settings and `--help` need no torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from trm_agent.trust_region.controls import CONTROLS
from trm_agent.trust_region.criterion import (
    AVG_LIMITS,
    AVG_TOKEN_KL,
    CLIP,
    FRACTION,
    IN_EVERY_CONTEXT,
    KL_ESTIMATORS,
    MAX_LIMITS,
    MAX_TOKEN_KL,
    OF_AVG,
    OF_MAX,
    ON_EVERY_PATH,
    POSITIVE,
    WITHOUT_PREMISE,
    Criterion,
    Guarantee,
)
from trm_agent.trust_region.directions import DIRECTIONS
from trm_agent.trust_region.stops import STOPS
from trm_fields import SHARE, Flag, Setting

if TYPE_CHECKING:
    from torch import Tensor

    from trm_agent.core.masks import Interval
    from trm_agent.core.token_batch import TokenBatch


def largest_kl(batch: TokenBatch) -> Interval:
    """Return max_t D_t."""
    from trm_agent.core.masks import max_statistic

    return max_statistic(batch.divergences.kl_for_max)


def mean_kl(batch: TokenBatch) -> Interval:
    """Return (1/T) sum_t D_t."""
    from trm_agent.core.masks import mean_statistic

    return mean_statistic(batch.divergences.kl_for_avg, batch.lengths)


def length_neutral(batch: TokenBatch, *, max_token_kl: float, max_token_tv: float | None) -> Interval:
    """Return W / Z of LN-TRM."""
    from trm_agent.core.masks import length_neutral_statistic

    return length_neutral_statistic(
        batch.log_ratio,
        batch.response_mask,
        max_token_kl=max_token_kl,
        max_token_tv=max_token_tv,
        unknown=batch.unknown_ratio,
    )


def mean_ratio_deviation(batch: TokenBatch) -> Interval:
    """Return (1/T) sum_t |rho_t - 1|."""
    from trm_agent.core.masks import ratio_deviation_statistic

    return ratio_deviation_statistic(batch.log_ratio, batch.response_mask, batch.unknown_ratio)


def tokens_inside(batch: TokenBatch, *, max_token_kl: float) -> Tensor:
    """Keep the tokens whose divergence is inside the threshold."""
    from trm_agent.core.token_masks import token_mask

    return token_mask(batch.divergences.kl_for_max.upper, batch.response_mask, max_token_kl)


def prefix_budget(
    batch: TokenBatch,
    *,
    token_tv: float,
    min_position_weight: float,
    prefix_budget: float | None,
    adaptive_budget: bool,
) -> Tensor:
    """Keep the tokens that CPPO's mask keeps."""
    from trm_agent.core.token_masks import binary_total_variation, prefix_budget_mask

    divergences = batch.divergences
    return prefix_budget_mask(
        binary_total_variation(batch) if divergences.sampled else divergences.tv.upper,
        batch.log_ratio,
        batch.advantages,
        batch.response_mask,
        threshold=token_tv,
        min_position_weight=min_position_weight,
        prefix_budget=prefix_budget,
        adaptive_budget=adaptive_budget,
        unknown=batch.unknown_ratio,
    )


def without_far_negatives(batch: TokenBatch, *, opsm_delta: float, opsm_clip: float | None) -> Tensor:
    """Keep the tokens that have a gradient under PPO's clip, but for the sequences that OPSM masks."""
    from trm_agent.core.losses import kept_tokens
    from trm_agent.core.opsm import off_policy_sequence_mask, unclipped_tokens

    log_ratio, unknown = batch.log_ratio, batch.unknown_ratio
    if unknown is not None:
        # NaN is outside of the mean, and clipped
        log_ratio = log_ratio.masked_fill(unknown, math.nan)
    given = log_ratio, batch.advantages, batch.response_mask
    kept = kept_tokens(batch.response_mask, off_policy_sequence_mask(*given, opsm_delta))
    return kept if opsm_clip is None else kept & unclipped_tokens(*given, opsm_clip)


CRITERIA: dict[str, Criterion] = {
    "max": Criterion(
        "no token above `max_token_kl`",
        thresholds=(MAX_TOKEN_KL,),
        statistic=largest_kl,
        limits=MAX_LIMITS,
        adapts=True,
        guarantee=IN_EVERY_CONTEXT,
    ),
    "avg": Criterion(
        "mean over tokens within `avg_token_kl`",
        thresholds=(AVG_TOKEN_KL,),
        statistic=mean_kl,
        limits=AVG_LIMITS,
        guarantee=ON_EVERY_PATH,
    ),
    "both": Criterion(
        "`max` and `avg` at once",
        thresholds=(MAX_TOKEN_KL, AVG_TOKEN_KL),
        parts=("max", "avg"),
        adapts=True,
        guarantee=Guarantee(
            "one of the thresholds holds in every reachable context, or on every path", (OF_MAX, OF_AVG)
        ),
    ),
    "ln": Criterion(
        "the paper's length-neutral W / Z within `length_neutral`",
        thresholds=(Setting("length_neutral", 0.05, POSITIVE, "`ln`: threshold of W / Z, unitless."), MAX_TOKEN_KL),
        statistic=length_neutral,
        settings=(
            Setting(
                "max_token_tv",
                None,
                FRACTION,
                "`ln`: eps, the largest token total variation; null derives it from `max_token_kl` by Pinsker.",
            ),
        ),
        # its weights are of ratios, whose mean over the rollouts is what the bound speaks of
        guarantee=Guarantee("max_token_kl holds in every reachable context", ()),
    ),
    "ser": Criterion(
        "mean |rho - 1| within `ratio_deviation`",
        thresholds=(
            Setting(
                "ratio_deviation",
                0.05,
                POSITIVE,
                "`ser`: threshold, unitless; the paper uses values from 0.03 to 0.10.",
            ),
        ),
        statistic=mean_ratio_deviation,
        guarantee=Guarantee("every reachable path is within the threshold", ()),
    ),
    **DIRECTIONS,
    **CONTROLS,
    "token": Criterion(
        "tokens within `max_token_kl`: the theory's skip",
        thresholds=(MAX_TOKEN_KL,),
        keeps=tokens_inside,
        masks_tokens=True,
        guarantee=WITHOUT_PREMISE,
    ),
    **STOPS,
    "prefix": Criterion(
        "CPPO's and DPPO's mask on `token_tv`",
        thresholds=(Setting("token_tv", 0.2, FRACTION, "`prefix`: threshold, total variation."),),
        keeps=prefix_budget,
        masks_tokens=True,
        settings=(
            Setting(
                "min_position_weight",
                0.8,
                SHARE,
                "`prefix`: weight of the last token, falling linearly from 1 at the first; 1 weighs all alike.",
            ),
            Setting(
                "prefix_budget",
                0.02,
                FRACTION,
                "`prefix`: largest weighted mean divergence of the prefix; null: no budget (DPPO's mask).",
            ),
            Setting(
                "adaptive_budget",
                True,
                Flag(),
                "`prefix`: the budget is the 90th percentile of the sequence's divergences, between `prefix_budget` "
                "and twice that; false: it is `prefix_budget`.",
            ),
        ),
    ),
    # no guarantee: A >= 0 always stays, and a mean of signed log-ratios of the drawn tokens is no divergence
    "opsm": Criterion(
        "what PPO's clip gives a gradient, but no sequence with A < 0 and a mean log(roll / theta) above `opsm_delta`",
        thresholds=(
            Setting(
                "opsm_delta",
                1e-4,
                POSITIVE,
                "`opsm`: largest mean of log(roll / theta) over the tokens of a sequence with A < 0, nats.",
            ),
        ),
        keeps=without_far_negatives,
        masks_tokens=True,
        settings=(Setting("opsm_clip", 0.2, CLIP, "`opsm`: PPO's clip of rho; null: none."),),
    ),
}


def parts_of(criterion: str) -> tuple[str, ...]:
    """Return the criteria that must all hold: its parts, or the criterion itself."""
    return CRITERIA[criterion].parts or (criterion,)


def without_kl(criterion: str, trm: Any) -> list[str]:
    """Return the settings that name divergences which a criterion's guarantee takes for a KL, and which are none.

    Args:
        criterion: its name.
        trm: the settings.
    """
    guarantee = CRITERIA[criterion].guarantee
    if guarantee is None or trm.estimator != "sampled":
        return []
    return [name for name in guarantee.compared if getattr(trm, name) not in KL_ESTIMATORS]


def own_settings() -> list[Setting]:
    """List the settings of all rows, each once.

    Raises:
        ValueError: two rows give one name to different settings.
    """
    found: dict[str, Setting] = {}
    for name, row in CRITERIA.items():
        limits = (row.limits.floor, row.limits.cap) if row.limits else ()
        for item in (*row.thresholds, *row.settings, *limits):
            if found.setdefault(item.name, item) is not item:
                raise ValueError(
                    f"criterion {name!r}: its setting {item.name!r} exists with another meaning; allowed: a name of "
                    "its own, or the same Setting object; rename it or share it"
                )
    return list(found.values())


def arguments_of(row: Criterion, trm: Any) -> dict[str, Any]:
    """Return the arguments of the row's function beside the batch: setting -> value.

    Args:
        row: of the table.
        trm: the settings.
    """
    thresholds = row.thresholds[1:] if row.statistic else row.thresholds
    return {item.name: getattr(trm, item.name) for item in (*thresholds, *row.settings)}
