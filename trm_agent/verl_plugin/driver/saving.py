"""A trainer's additions around checkpoints: which are kept, and a stop on request that loses no step."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from trm_agent.runs.endings.disk import keeping_of
from trm_agent.runs.endings.keeping import Keeping, tidy
from trm_agent.runs.endings.stopping import StopRequested, owes_validation, stop_requested
from trm_agent.runs.folder import read_metrics


class SavingMixin:
    """A mixin for a trainer of verl's V1."""

    config: Any
    global_steps: int
    replay_buffer: Any
    _saved_step = -1
    _awaits_row = False
    """Whether the row of the last checkpoint's step is still to be written."""
    _is_training = False
    _skipped_validation = False

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()  # type: ignore[misc]
        self._saved_step = self.global_steps

    def fit(self, agent_loops: Any) -> None:
        self.replay_buffer.is_stopped = self._is_stopped
        _make_up_for_a_validation(self.config, self.global_steps)
        super().fit(agent_loops)  # type: ignore[misc]
        self._tidy_after_row()
        if self._skipped_validation:
            raise StopRequested(f"after step {self._saved_step}, which is saved, and before its validation")

    def on_train_begin(self) -> None:
        super().on_train_begin()  # type: ignore[misc]
        self._is_training = True

    def on_step_begin(self) -> None:
        # here the last step's metrics have been written
        self._tidy_after_row()
        if self._is_stopped() and self._saved_step == self.global_steps - 1:
            raise StopRequested(f"after step {self._saved_step}, which is saved")
        super().on_step_begin()  # type: ignore[misc]

    def on_step_end(self) -> None:
        if self._is_stopped() and self._saved_step != self.global_steps:
            self._save_checkpoint()
        super().on_step_end()  # type: ignore[misc]

    def _save_checkpoint(self) -> None:
        folder = Path(self.config.run.dir)
        keeping = self._keeping()
        tidy(folder, keeping, before=self.global_steps)
        super()._save_checkpoint()  # type: ignore[misc]
        self._saved_step, self._awaits_row = self.global_steps, True
        tidy(folder, keeping)

    def _tidy_after_row(self) -> None:
        """Remove the checkpoint that was kept in case of a kill, once the newest one's row is written."""
        if self._awaits_row:
            tidy(Path(self.config.run.dir), self._keeping())
            self._awaits_row = False

    def _validate(self) -> dict[str, float]:
        if not self._is_training:
            return super()._validate()  # type: ignore[misc]
        if not self._is_stopped():
            try:
                return super()._validate()  # type: ignore[misc]
            except StopRequested:
                if self._saved_step != self.global_steps:
                    self._save_checkpoint()
        # a resumed run makes up for it
        self._skipped_validation = True
        return {}

    def _keeping(self) -> Keeping:
        keeping: Keeping | None = getattr(self, "_kept", None)
        if keeping is None:
            keeping = self._kept = keeping_of(self.config)
            _remove_in_place_of_verl(self.config)
        return keeping

    def _is_stopped(self) -> bool:
        return stop_requested(Path(self.config.run.dir))


def _make_up_for_a_validation(config: DictConfig, step: int) -> None:
    """Validate before the first step of a session where a stop left out the validation of the step before it."""
    rows = read_metrics(Path(config.run.dir))
    if owes_validation(rows, step, config.trainer.test_freq, config.trainer.total_training_steps):
        config.trainer.val_before_train = True


def _remove_in_place_of_verl(config: DictConfig) -> None:
    """Take the removal of checkpoints out of verl's hands, which knows those of this session alone."""
    with open_dict(config):
        config.trainer.max_actor_ckpt_to_keep = None
        config.trainer.max_critic_ckpt_to_keep = None
