"""Our checks inside verl's own, which run in the user's process before Ray starts.

verl's `validate_config` builds the actor's settings, which imports our policy loss by its `_target_`, and then calls
`ActorConfig.validate` with a node of the whole configuration. It has no place of its own for a policy loss's check.
"""

import functools
from collections.abc import Callable
from typing import Any, cast

from omegaconf import DictConfig
from verl.workers.config import ActorConfig

from trm_agent.trust_region.surroundings import LOSS_MODE, trainer_and_engine, trust_region
from trm_fields import refuse

_MARK = "_trm_agent_checks"


def install() -> None:
    """Add the trust region's checks to verl's validation of the actor. Idempotent."""
    if not getattr(ActorConfig.validate, _MARK, False):
        ActorConfig.validate = with_checks(ActorConfig.validate)  # type: ignore[method-assign]


def with_checks(validate: Callable[..., None]) -> Callable[..., None]:
    """Return verl's validation, followed by ours if the loss is `trm`."""

    @functools.wraps(validate)
    def checked(self: Any, n_gpus: int, train_batch_size: int, model_config: Any = None) -> None:
        validate(self, n_gpus, train_batch_size, model_config)
        if self.policy_loss.loss_mode == LOSS_MODE and isinstance(model_config, DictConfig):
            config = cast("DictConfig", model_config._get_root())
            trust_region(config)
            trainer_and_engine(config)
            check_loss_aggregation(self.loss_agg_mode, self.loss_scale_factor)

    setattr(checked, _MARK, True)
    return checked


def check_loss_aggregation(loss_agg_mode: str, loss_scale_factor: float | None) -> None:
    """Refuse an aggregation whose denominator depends on how the batch is split.

    Args:
        loss_agg_mode: verl's `actor.loss_agg_mode`.
        loss_scale_factor: verl's `actor.loss_scale_factor`.

    Raises:
        ValueError: for `seq-mean-token-sum-norm` without a scale: verl then divides by the padded width of each
            micro-batch.
    """
    if loss_agg_mode == "seq-mean-token-sum-norm" and loss_scale_factor is None:
        refuse(
            "actor_rollout_ref.actor.loss_scale_factor",
            None,
            "a positive number",
            "set it to data.max_response_length",
            because="with loss_agg_mode=seq-mean-token-sum-norm, so the gradient would depend on the micro-batch size",
        )
