"""Additions to verl's trainer whose rollout servers have devices of their own."""

import logging
from typing import Any

from omegaconf import OmegaConf

from trm_agent.verl_plugin.actor.ratios import Ratios
from trm_agent.verl_plugin.driver.actor_update import take_ratios
from trm_agent.verl_plugin.driver.asynchronous import AsynchronousMixin
from trm_agent.verl_plugin.driver.several_updates import over_updates

TRAINER = "verl.trainer.ppo.v1.trainer_separate_async"


class SeparateMixin(AsynchronousMixin):
    """A mixin in front of `PPOTrainerSeparateAsync`, whose step is `parameter_sync_step` updates.

    Servers sample while these are made, and take the weights after the last one: a version counts synchronisations.
    """

    parameter_sync_step: int
    _updates: list[dict[str, Any]]
    _ratios: list[Ratios]

    def _setup(self) -> None:
        # verl tells its logger that the trainer's devices have no engine, with an argument that no logger takes
        logger = logging.getLogger(TRAINER)
        level = logger.level
        logger.setLevel(logging.WARNING)
        try:
            super()._setup()  # type: ignore[misc]
        finally:
            logger.setLevel(level)

    def _init_dataloader(self) -> None:
        super()._init_dataloader()  # type: ignore[misc]
        # as verl does with `total_training_steps`: the schedule counts updates, its settings count steps
        for path in ("actor_rollout_ref.actor.optim", "critic.optim"):
            optim = OmegaConf.select(self.config, path) or {}
            for name in ("schedule_from", "lr_warmup_steps"):
                # -1 leaves the warm-up to a ratio
                if (optim.get(name) or 0) > 0:
                    optim[name] *= self.parameter_sync_step

    def step(self, metrics: dict, timing_raw: dict) -> Any:
        self._updates, self._ratios = [], []
        batch = super().step(metrics, timing_raw)  # type: ignore[misc]
        metrics.update(over_updates(self._updates, self._ratios))
        return batch

    def _step_once(self, metrics: dict, timing_raw: dict, sample_batch_size: int) -> Any:
        batch = super()._step_once(metrics, timing_raw, sample_batch_size)  # type: ignore[misc]
        self._updates.append(dict(metrics))
        self._ratios.append(take_ratios(self))
        return batch
