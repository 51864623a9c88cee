"""What `mask_policy=start_of_step` costs, a forward pass of verl's over a step's batch, and where it sees nothing."""

import functools
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from trm_agent.trust_region.settings import FIELD_PATH, TrmConfig
from trm_agent.trust_region.surroundings import LOSS_MODE, section

logger = logging.getLogger("trm_agent")

_TOLD = "_trm_agent_told_cost"
_TOLD_OF_NOTHING = "_trm_agent_told_nothing_is_shuffled"


def with_cost(compute_old_log_prob: Callable[..., Any]) -> Callable[..., Any]:
    """Return verl's pass over the batch, which prints its seconds once if the mask is why it is run."""

    @functools.wraps(compute_old_log_prob)
    def computing(self: Any, batch: Any, metrics: dict[str, Any]) -> Any:
        started = time.perf_counter()
        batch = compute_old_log_prob(self, batch, metrics=metrics)
        seconds = time.perf_counter() - started
        loss = self.config.actor_rollout_ref.actor.policy_loss
        if loss.loss_mode == LOSS_MODE and not hasattr(self, _TOLD):
            setattr(self, _TOLD, True)
            trm = TrmConfig.from_mapping(section(loss, "trm"))
            if trm.mask_policy == "start_of_step" and not trm.decoupled:
                print(
                    f"{FIELD_PATH}.mask_policy=start_of_step: a forward pass before the first update of each step, "
                    f"{seconds:.2f} s for the {len(batch)} sequences of this one (timing_s/old_log_prob)",
                    flush=True,
                )
        return batch

    return computing


def warn_if_nothing_is_shuffled(trainer: Any, metrics: Mapping[str, Any], trm: TrmConfig) -> None:
    """Warn, once, of a step in which `permuted` had nothing to shuffle, since every sequence was kept.

    Args:
        trainer: that remembers whether it has been told.
        metrics: of the step, see `final_metrics`.
        trm: the settings.
    """
    if trm.criterion != "permuted" or metrics.get("trm/acceptance") != 1 or hasattr(trainer, _TOLD_OF_NOTHING):
        return
    setattr(trainer, _TOLD_OF_NOTHING, True)
    logger.warning(
        "trm: the policy at the start of this step accepted every sequence by criterion %s, so criterion=permuted "
        "shuffled nothing, and the step was one without a mask. That policy shows the mismatch of the engines and "
        "stale data, not what the step's own updates change: compare with a run of %s.mask_policy=start_of_step, and "
        "lower the threshold if this goes on. Told once.",
        trm.compared,
        FIELD_PATH,
    )
