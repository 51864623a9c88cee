"""A trainer's word on the episodes that it waits for, which the command's screen counts, or on their tasks."""

import time
from pathlib import Path
from typing import Any

from trm_agent.runs.preflight_async import is_asynchronous
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
        self._wait_for_update(f"step {self.global_steps}: generation")
        super().on_step_begin()  # type: ignore[misc]

    def on_sample_begin(self) -> None:
        if self.local_trigger_step:
            # the wait for the first update began with the step
            self._wait_for_update(f"step {self.global_steps}: generation for update {self.local_trigger_step + 1}")
        super().on_sample_begin()  # type: ignore[misc]

    def on_sample_end(self) -> None:
        end_phase(Path(self.config.run.dir))
        super().on_sample_end()  # type: ignore[misc]

    def _validate(self) -> dict[str, float]:
        env = self.config.env
        total = (env.val.num_tasks + num_greedy(env, VALIDATION)) * self.config.actor_rollout_ref.rollout.val_kwargs.n
        name = f"validation after step {self.global_steps}"
        begin_phase(Path(self.config.run.dir), name, total, time.time(), of_validation=True)
        try:
            return super()._validate()  # type: ignore[misc]
        finally:
            end_phase(Path(self.config.run.dir))

    def _wait_for_update(self, name: str) -> None:
        """Say that one wait of a step begins: for the episodes of an update, where each has its own.

        Beside asynchronous training episodes of later steps end too, so that its replay buffer counts tasks.
        """
        in_tasks = is_asynchronous(self.config)
        total = self.config.data.train_batch_size * (1 if in_tasks else self.config.actor_rollout_ref.rollout.n)
        total = int(total) // self.parameter_sync_step
        begin_phase(Path(self.config.run.dir), name, total, time.time(), in_tasks=in_tasks)
