"""Micro-batches whose gradient is 0 need no backward pass: episodes of tasks that were all solved, or none of them.

Every term of our loss is a multiple of its token's advantage, so a sequence whose advantages are all 0 has gradient 0.
The driver puts such sequences first (`driver/actor_update.py`), so that they fill micro-batches of their own.
"""

from typing import Any

import torch
from tensordict import TensorDict
from verl.utils.device import get_device_name
from verl.workers.utils.losses import ppo_loss

from trm_agent.trust_region.surroundings import LOSS_MODE
from trm_agent.verl_plugin.actor.update import other_terms


class WithoutGradientMixin:
    """A mixin for verl's FSDP engine that knows which micro-batch ends an update."""

    _is_last = True

    def _gradient_sync_context(self, *, is_last_micro_batch: bool) -> Any:
        self._is_last = is_last_micro_batch
        return super()._gradient_sync_context(is_last_micro_batch=is_last_micro_batch)  # type: ignore[misc]

    def is_without_gradient(self, micro_batch: TensorDict, loss_function: Any) -> bool:
        """Return True if the backward pass of a micro-batch can be left out.

        The last one of an update keeps it: gradients of 0 are not the same to an optimizer as none. Several ranks have
        to run the same passes, so they leave none out; with an accelerator this is untried.

        Args:
            micro_batch: nested, with `advantages`.
            loss_function: as verl's worker gives it to the engine.
        """
        alone = get_device_name() == "cpu" and torch.distributed.get_world_size() == 1
        if self._is_last or not alone or not _is_ours_alone(loss_function):
            return False
        advantages = micro_batch["advantages"]
        return not bool((advantages.values() if advantages.is_nested else advantages).any())


def _is_ours_alone(loss_function: Any) -> bool:
    """Return True if the loss is `trm` without a term that does not multiply the advantage."""
    if getattr(loss_function, "func", None) is not ppo_loss:
        return False
    config = loss_function.keywords["config"]
    return config.policy_loss.get("loss_mode") == LOSS_MODE and not other_terms(config)
