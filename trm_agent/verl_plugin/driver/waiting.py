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

    def on_step_begin(self) -> None:
        total = self.config.data.train_batch_size * self.config.actor_rollout_ref.rollout.n
        self._wait_for(f"step {self.global_steps}: generation", total)
        super().on_step_begin()  # type: ignore[misc]

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

    def _wait_for(self, name: str, total: int) -> None:
        begin_phase(Path(self.config.run.dir), name, total, time.time())
