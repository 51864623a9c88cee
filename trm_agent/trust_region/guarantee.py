"""Whether the settings give a criterion the guarantee that it can have, and which would."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trm_agent.trust_region.criteria import CRITERIA
from trm_agent.trust_region.settings import TrmConfig
from trm_agent.trust_region.surroundings import LOSS_MODE, section

if TYPE_CHECKING:
    from omegaconf import DictConfig


def lost_guarantee(trm: TrmConfig) -> str | None:
    """Tell what keeps a criterion from the guarantee that it has without a premise, and what would give it back.

    `stop`, `stop_cumulative` and `token` leave out contexts: their surrogate is that of a policy that follows the
    rollout there, so its divergence is known in every context. That needs a decision which depends on the context, and
    not on the token that was drawn in it. The criteria of sequences have no such form, whatever the estimator.

    Args:
        trm: the settings.

    Returns:
        A sentence, or None where nothing is lost.
    """
    if not CRITERIA[trm.criterion].without_premise:
        return None
    lost = []
    if trm.estimator == "sampled":
        lost.append("estimator=sampled decides by the drawn token (exact, topk and replayed decide by the context)")
    if trm.estimator in ("topk", "replayed") and trm.undecided == "accept":
        lost.append("undecided=accept keeps contexts that may be outside (reject does not)")
    if trm.mask_policy == "start_of_step":
        lost.append("mask_policy=start_of_step measures a policy that the step has left (current does not)")
    if trm.ratio_truncation is not None:
        lost.append("ratio_truncation changes the surrogate (null does not)")
    if trm.decoupled:
        lost.append("decoupled changes the surrogate (false does not)")
    if not lost:
        return None
    return (
        f"criterion={trm.criterion} is without its guarantee here: {'; '.join(lost)}; see docs/choosing_a_threshold.md"
    )


def told_guarantee(config: DictConfig) -> str:
    """Return a line about a guarantee that a run's settings lose; empty where they lose none."""
    loss = config.actor_rollout_ref.actor.policy_loss
    if loss.loss_mode != LOSS_MODE:
        return ""
    lost = lost_guarantee(TrmConfig.from_mapping(section(loss, "trm")))
    return f"warning: {lost}" if lost else ""
