"""The steps of an asynchronous run over a scripted queue."""

from collections.abc import Sequence
from typing import Any

import pytest

from trm_agent.verl_plugin.driver.async_buffer import EVICTED
from trm_agent.verl_plugin.driver.dynamic_sampling import Filter, GroupWatch
from trm_agent.verl_plugin.driver.group_signal import Group

from .scripted_queue import ScriptedQueue, async_buffer, tasks

# rewards of a group with signal
MIXED = (1.0, 0.0)
# tasks of a step
SIZE = 4


def filtering(max_batches: int = 0, short_batch: str = "stop") -> Filter:
    return Filter("reward", max_batches, short_batch, max_failed_batches=3)


class Training:
    """The steps of an asynchronous run, as verl's trainer draws and samples them."""

    def __init__(
        self,
        queue: ScriptedQueue,
        monkeypatch: pytest.MonkeyPatch,
        filter: Filter | None,
        size: int = SIZE,
        updates: int = 1,
        ahead: float = 1,
        restored: Sequence[int] = (),
        last_step: int | None = None,
        **settings: Any,
    ) -> None:
        self.queue, self.size, self.updates = queue, size, updates
        self.buffer = async_buffer(queue, monkeypatch, size, updates, ahead, **settings)
        self.watch = self.buffer.watch = GroupWatch(filter)
        self.buffer.last_step = last_step
        self.drained: list[Group] = []
        # episodes that were trained on
        self.keys: list[str] = []
        # of each task, within how many steps it was trained on, that in which it was drawn included
        self.ages: dict[int, int] = {}
        self.metrics: dict[str, float] = {}
        self.num_evicted = 0.0
        queue.play(restored)
        batches = ahead if last_step is None else min(ahead, last_step - queue.step + 1)
        queue.draw(max(0, int(batches * size) - len(restored)))

    def step(self) -> list[list[int]]:
        """Draw and sample a step; return the tasks of each update."""
        self.queue.draw(self.buffer.num_to_draw(self.queue.step, self.size))
        batches, sampled = [], []
        for _ in range(self.updates):
            batch, self.metrics = self.buffer.sample(self.queue.step, "train", self.size // self.updates)
            batches.append([int(task[1:]) for task in tasks(batch)])
            self.drained += self.watch.drain()
            sampled += batch.keys
            self.queue.tick()
        self.ages |= {task: self.queue.step - self.queue.drawn_in[task] + 1 for batch in batches for task in batch}
        # of the whole step
        self.num_evicted += self.metrics.get(EVICTED, 0)
        self.keys += sampled
        self.queue.kv_clear(sampled, "train")
        self.queue.step += 1
        return batches

    def left_out(self, batches: Sequence[Sequence[int]]) -> list[int]:
        """The tasks that the step left out."""
        taken = {task for batch in batches for task in batch}
        return [task for uid in self.watch.groups if (task := int(uid[1:])) not in taken]
