"""A trainer's word on the episodes that it waits for, which the command's screen counts."""

import time
from pathlib import Path
from typing import Any

from trm_agent.runs.progress import begin_phase, end_phase
from trm_agent.tasks import VALIDATION, num_greedy


class WaitingMixin:
    """A mixin for a trainer of verl's V1."""

    config: Any
    global_steps: int
    parameter_sync_step: int
    """Updates between two synchronisations of weights, which are a step."""
    local_trigger_step: int
    """The number of the update within its step, from 0 on."""

    def on_step_begin(self) -> None:
        self._wait_for(f"step {self.global_steps}: generation", self._num_episodes())
        super().on_step_begin()  # type: ignore[misc]

    def on_sample_begin(self) -> None:
        if self.local_trigger_step:
            # the wait for the first update began with the step
            name = f"step {self.global_steps}: generation for update {self.local_trigger_step + 1}"
            self._wait_for(name, self._num_episodes())
        super().on_sample_begin()  # type: ignore[misc]

    def on_sample_end(self) -> None:
        end_phase(Path(self.config.run.dir))
        super().on_sample_end()  # type: ignore[misc]

    def _validate(self) -> dict[str, float]:
        env = self.config.env
        total = (env.val.num_tasks + num_greedy(env, VALIDATION)) * self.config.actor_rollout_ref.rollout.val_kwargs.n
        self._wait_for(f"validation after step {self.global_steps}", total)
        try:
            return super()._validate()  # type: ignore[misc]
        finally:
            end_phase(Path(self.config.run.dir))

    def _num_episodes(self) -> int:
        """Return the number of episodes that one wait of a step is for: those of an update, where each has its own."""
        step = int(self.config.data.train_batch_size * self.config.actor_rollout_ref.rollout.n)
        return step // self.parameter_sync_step

    def _wait_for(self, name: str, total: int) -> None:
        begin_phase(Path(self.config.run.dir), name, total, time.time())
