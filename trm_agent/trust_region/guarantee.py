"""What the settings take from a criterion's guarantee and from the logged bounds, and which settings would not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trm_agent.trust_region.criteria import CRITERIA, without_kl
from trm_agent.trust_region.criterion import KL_ESTIMATORS, OF_CONTEXTS, WITH_BOUNDS, Guarantee
from trm_agent.trust_region.sampler_check import selection
from trm_agent.trust_region.settings import TrmConfig
from trm_agent.trust_region.surroundings import LOSS_MODE, section

if TYPE_CHECKING:
    from omegaconf import DictConfig

# verl's aggregation that divides the sum of a sequence by its length
BY_LENGTH = "seq-mean-token-mean"


def lost_guarantee(trm: TrmConfig, loss_agg_mode: str) -> str | None:
    """Tell what keeps a criterion from the guarantee that it can have, and what would give it back.

    Args:
        trm: the settings.
        loss_agg_mode: verl's aggregation of the loss.

    Returns:
        A sentence, or None where nothing is lost, or there was nothing to lose.
    """
    guarantee = CRITERIA[trm.criterion].guarantee
    if guarantee is None:
        return None
    of_divergences = *_undecided_by_contexts(trm, guarantee), *told_without_kl(trm.criterion, trm)
    lost = "; ".join([*of_divergences, *_of_another_surrogate(trm, loss_agg_mode)])
    if not lost:
        return None
    return f"criterion={trm.criterion} is without its guarantee here: {lost}; see docs/criteria.md"


def told_guarantee(config: DictConfig) -> str:
    """Return a line about a guarantee that a run's settings lose; empty where they lose none.

    It is a warning where the settings alone would have given the guarantee, and a note where no settings can show its
    premise.
    """
    actor = config.actor_rollout_ref.actor
    if actor.policy_loss.loss_mode != LOSS_MODE:
        return ""
    trm = TrmConfig.from_mapping(section(actor.policy_loss, "trm"))
    lost = lost_guarantee(trm, actor.loss_agg_mode)
    kind = "warning" if CRITERIA[trm.criterion].without_premise else "note"
    return f"{kind}: {lost}" if lost else ""


def told_selection(config: DictConfig) -> str:
    """Return a line about episodes that a run with our loss leaves out for how they went; empty where it keeps all."""
    if config.actor_rollout_ref.actor.policy_loss.loss_mode != LOSS_MODE:
        return ""
    selected_by = selection(config)
    return f"note: {of_selected(selected_by)}" if selected_by else ""


def of_selected(selected_by: str) -> str:
    """Tell what the logged bounds are about beside a setting that leaves episodes out for how they went."""
    return (
        f"{selected_by} leaves episodes out for how they went: bound_stop, bound_chi2_kl and the acceptance are of the "
        "others alone, and what was left out may lie further outside; see docs/metrics.md"
    )


def told_without_kl(criterion: str, trm: TrmConfig) -> list[str]:
    """Tell which divergences of a criterion are no KL, and which would be."""
    estimate = f"({' and '.join(KL_ESTIMATORS)} are estimates)"
    return [
        f"{name}={getattr(trm, name)} is no KL, and every bound needs one {estimate}"
        for name in without_kl(criterion, trm)
    ]


def _undecided_by_contexts(trm: TrmConfig, guarantee: Guarantee) -> Iterator[str]:
    """Yield why the divergences that decide are not those of the contexts under the policy in training."""
    if guarantee.of_contexts and trm.estimator not in OF_CONTEXTS:
        *others, last = OF_CONTEXTS
        yield (
            f"estimator={trm.estimator} decides by the drawn token ({', '.join(others)} and {last} decide by the "
            "context)"
        )
    if guarantee.of_contexts and trm.estimator in WITH_BOUNDS and trm.undecided == "accept":
        yield "undecided=accept keeps contexts that may be outside (reject does not)"
    if trm.mask_policy == "start_of_step":
        yield "mask_policy=start_of_step measures a policy that the step has left (current does not)"


def _of_another_surrogate(trm: TrmConfig, loss_agg_mode: str) -> Iterator[str]:
    """Yield why the loss is not the surrogate that the guarantee is about."""
    if trm.ratio_truncation is not None:
        yield "ratio_truncation changes the surrogate (null does not)"
    if trm.decoupled:
        yield "decoupled changes the surrogate (false does not)"
    if loss_agg_mode == BY_LENGTH:
        yield (
            f"loss_agg_mode={BY_LENGTH} divides by a length that the drawn tokens decide (seq-mean-token-sum-norm, "
            "seq-mean-token-sum and token-sum do not)"
        )
