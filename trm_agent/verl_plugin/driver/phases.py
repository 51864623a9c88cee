"""Deadlines of the phases in which the ranks of the trainer work together, and wait for each other."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from trm_agent.verl_plugin.driver.hung import deadline
from trm_agent.verl_plugin.driver.ranks import Ranks, listening_ranks, ranks_of

FIELD = "run.phase_timeout_s"
_GROUPS = ("actor_rollout_wg", "ref_policy_wg", "critic_wg")


class PhasesMixin:
    """A mixin next to verl's trainer, so that what our others add around a phase does not fall under its deadline."""

    config: Any
    ranks: Ranks | None = None

    def _load_checkpoint(self) -> None:
        # the first phase of ranks that have started
        handles = ranks_of(getattr(self, name, None) for name in _GROUPS)
        self.ranks = listening_ranks(handles) if handles else None
        with self._at_work("loading the checkpoint"):
            super()._load_checkpoint()  # type: ignore[misc]

    def _save_checkpoint(self) -> None:
        with self._at_work("saving the checkpoint"):
            super()._save_checkpoint()  # type: ignore[misc]

    def _compute_old_log_prob(self, batch: Any, metrics: dict) -> Any:
        with self._at_work("the forward pass before the update"):
            return super()._compute_old_log_prob(batch, metrics=metrics)  # type: ignore[misc]

    def _compute_ref_log_prob(self, batch: Any, metrics: dict) -> Any:
        with self._at_work("the forward pass of the reference"):
            return super()._compute_ref_log_prob(batch, metrics=metrics)  # type: ignore[misc]

    def _compute_values(self, batch: Any, metrics: dict) -> Any:
        with self._at_work("the forward pass of the critic"):
            return super()._compute_values(batch, metrics=metrics)  # type: ignore[misc]

    def _update_critic(self, batch: Any, metrics: dict) -> Any:
        with self._at_work("the update of the critic"):
            return super()._update_critic(batch, metrics=metrics)  # type: ignore[misc]

    def _update_actor(self, batch: Any, metrics: dict) -> Any:
        with self._at_work("the update of the policy"):
            return super()._update_actor(batch, metrics=metrics)  # type: ignore[misc]

    def _at_work(self, what: str) -> AbstractContextManager[None]:
        run = self.config.run
        # a rank that is alone waits for no other, however long its work takes
        is_alone = self.ranks is not None and len(self.ranks) == 1
        return deadline(None if is_alone else run.phase_timeout_s, what, Path(run.dir), FIELD, self.ranks)
