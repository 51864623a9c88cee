"""What `mask_policy=start_of_step` costs: verl's forward pass over a step's batch before its first update."""

import functools
import time
from collections.abc import Callable
from typing import Any

from trm_agent.trust_region.settings import FIELD_PATH, TrmConfig
from trm_agent.trust_region.surroundings import LOSS_MODE, section

_TOLD = "_trm_agent_told_cost"


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
