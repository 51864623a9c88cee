"""A replay buffer of verl that polls quickly, and copes with batches in which every episode failed."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from trm_agent.runs.endings.stopping import StopRequested
from trm_agent.tasks import TRAIN
from trm_agent.verl_plugin.driver.dynamic_sampling import GroupWatch
from trm_agent.verl_plugin.driver.infrastructure_share import first_failure
from trm_agent.verl_plugin.driver.queue_clock import QueueClock
from trm_agent.verl_plugin.rollout.failed import FAILURES, check_drawn
from trm_agent.verl_plugin.rollout.outbox import DONE
from trm_agent.verl_plugin.rollout.overlong import OVERLONG_PARTITION

logger = logging.getLogger("trm_agent")


class NothingPlayed(RuntimeError):
    """Every episode of a validation failed, a case that verl does not handle."""


class EnvReplayBuffer(ReplayBuffer):
    """Synchronous sampling for episodes that may fail.

    verl polls every 2 s, longer than a whole step on a small machine, and raises when no trajectory of a batch
    materialised. Here a batch whose episodes all failed is replaced by fresh tasks, `max_failed_batches` times in a
    row at most: an environment that never works must not look like a run that goes on. Validation has its tasks and no
    others: there it raises `NothingPlayed`.

    verl keeps the order in which episodes ended, so that with several mini-batches per step the short and easy ones
    make the first update and the long ones the last, which is also the one farthest off-policy. Here the tasks keep the
    order in which they were drawn; only within a mini-batch, where order means nothing, episodes are sorted by length,
    so that a micro-batch has little padding.

    With one data-parallel rank the updates get these mini-batches. With more, verl's `_balance_batch` then deals the
    whole batch out so that the ranks have equal work, and each rank cuts its own share into mini-batches: episodes
    change their mini-batch, and those of one task may be in several. Within a rank it keeps this order. Advantages are
    not affected: groups are formed over the whole batch.

    Of a task of which an episode raised, verl's `failure`, the other episodes are trained on. Such an episode may have
    left a key in the queue, without data and without a tag; it is removed.

    With a `watch` the groups of a training step are judged as they end; where it filters, those without signal leave
    the queue, and the next tasks are drawn in their place.

    Args:
        poll_interval: seconds between two looks at the queue (`trainer.v1.sampler.sampler_kwargs`).
        max_failed_batches: consecutive batches without any episode before the run stops.
        tasks_per_update, episodes_per_task: size of a mini-batch over all devices.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        settings = kwargs.get("sampler_kwargs") or {}
        kwargs["poll_interval"] = float(settings.get("poll_interval", 0.05))
        super().__init__(*args, **kwargs)
        self.max_failed_batches = int(settings.get("max_failed_batches", 3))
        self.episodes_per_update = int(settings["tasks_per_update"]) * int(settings["episodes_per_task"])
        # whether the run was asked to stop, which ends a validation where it is
        self.is_stopped: Callable[[], bool] = lambda: False
        self.watch: GroupWatch | None = None
        self.queue_clock = QueueClock()

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict]:
        watch = self.watch if partition_id == TRAIN else None
        if watch is not None:
            watch.begin(batch_size)
        for _ in range(self.max_failed_batches):
            batch, metrics = self._sample_once(global_steps, partition_id, batch_size, watch)
            if batch.keys:
                return batch, metrics
            if partition_id == "val":
                raise NothingPlayed
            logger.warning("step %d: every episode of the batch failed; drawing new tasks", global_steps)
            self.refill_fn(batch_size)
        raise RuntimeError(self._told_of_failures())

    def _sample_once(
        self, global_steps: int, partition_id: str, batch_size: int, watch: GroupWatch | None
    ) -> tuple[KVBatchMeta, dict]:
        self._look(global_steps, watch)
        while len(self._terminal(partition_id)) < batch_size:
            if partition_id == "val" and self.is_stopped():
                raise StopRequested("during the validation before the first step of this session")
            if watch is not None and watch.filter is not None and not self._in_flight(partition_id):
                # nothing is played any more, and no further task may be drawn
                watch.check_short(global_steps)
                break
            self._wait_for_next_poll(partition_id, float("inf"))
            self._look(global_steps, watch)
        uids, snapshot, drawn = self._select_prompt_uids(partition_id, self._terminal(partition_id), batch_size)
        if watch is not None:
            watch.take(uids)
        batch = self._materialize_batch(partition_id, uids, snapshot)
        batch.reorder(update_order(batch.keys, batch.tags, list(drawn), self.episodes_per_update))
        return batch, {}

    def _sync_metadata_from_transfer_queue(self) -> None:
        super()._sync_metadata_from_transfer_queue()
        check_drawn(self.partitions[FAILURES.format(stream=TRAIN)].values())
        for partition_id in [name for name, tasks in self.failure_keys.items() if tasks]:
            self._clear_half_stored(partition_id)

    def _clear_half_stored(self, partition_id: str) -> None:
        """Remove the episodes whose rows did not reach the queue: their tasks have ended, so none is on its way."""
        failed, tags = self.failure_keys[partition_id], self.partitions[partition_id]
        # the queue makes a key first, and writes its tag last
        half = [key for key, tag in tags.items() if "seq_len" not in tag and key.split("_")[0] in failed]
        if half:
            tq.kv_clear(keys=half, partition_id=partition_id)
            self.partitions[partition_id] = {key: tag for key, tag in tags.items() if key not in half}

    def _look(self, step: int, watch: GroupWatch | None) -> None:
        """Read the state of the queue; under a filter, let groups without signal make room for the next tasks."""
        self._sync_metadata_from_transfer_queue()
        if watch is None:
            return
        masked = self.partitions[OVERLONG_PARTITION].values()
        without = watch.judge(self._terminal(TRAIN), self.partitions[TRAIN], masked)
        if not without:
            return
        if watch.is_broken():
            raise RuntimeError(self._told_of_failures())
        self._clear_groups(TRAIN, set(without))
        if more := watch.allowed(len(without)):
            watch.add_drawn(more, step)
            self.refill_fn(more)
            self._sync_metadata_from_transfer_queue()

    def queue_idle(self) -> float | None:
        """Return the share of the last step in which no task that was done lay in the queue; None if it is not known.

        In a synchronous step the trainer has taken them all.
        """
        return self.queue_clock.share(())

    def _materialize_batch(
        self, partition_id: str, selected_prompt_uids: list[str], partition_snapshot: dict[str, dict]
    ) -> KVBatchMeta:
        if partition_id == TRAIN:
            done = self._done()
            num_left = len(done.keys() - set(selected_prompt_uids)) if done is not None else 0
            self.queue_clock.take(time.time(), None if done is None else done.values(), num_left)
        return super()._materialize_batch(partition_id, selected_prompt_uids, partition_snapshot)

    def _done(self) -> dict[str, float] | None:
        """Return when each task that has an episode to train on was done, by its key; None where a tag does not tell.

        Agent loops that are not ours do not tell.
        """
        terminal = self._terminal(TRAIN)
        found: dict[str, float] = {}
        for key, tag in self.partitions[TRAIN].items():
            task = key.split("_")[0]
            if task in terminal:
                if DONE not in tag:
                    return None
                found[task] = max(tag[DONE], found.get(task, 0.0))
        return found

    def _in_flight(self, partition_id: str) -> set[str]:
        return self.pending_keys[partition_id] | self.running_keys[partition_id]

    def _told_of_failures(self) -> str:
        return (
            f"no episode of {self.max_failed_batches} consecutive batches could be played: the environment or the "
            f"rollout server is broken; the first: {first_error()}"
        )

    def _terminal(self, partition_id: str) -> set[str]:
        return self.finished_keys[partition_id] | self.failure_keys[partition_id]


def first_error() -> str:
    """Return the first error of the training episodes that could not be played."""
    partition = FAILURES.format(stream=TRAIN)
    found = tq.kv_list() or {}
    if rows := found.get(partition, {}):
        return first_failure(list(rows.values()))
    if masked := found.get(OVERLONG_PARTITION, {}):
        return (
            f"none was reported, but {len(masked)} episodes ran out of tokens and are masked "
            "(env.overlong.treatment, data.max_response_length)"
        )
    return "none was reported, see log.txt"


def update_order(
    keys: Sequence[str], tags: Sequence[Mapping[str, Any]], drawn: Sequence[str], episodes_per_update: int
) -> list[int]:
    """Return the order of a batch's episodes: by task as drawn, and by length within a mini-batch.

    Args:
        keys: verl's keys of the episodes, `{task}_{session}_{index}`.
        tags: their tags, with `seq_len`.
        drawn: the tasks' keys in the order in which they were drawn.
        episodes_per_update: episodes of a mini-batch.
    """
    place = {task: position for position, task in enumerate(drawn)}
    by_task = sorted(range(len(keys)), key=lambda row: (place[keys[row].split("_")[0]], keys[row]))
    updates = [by_task[start : start + episodes_per_update] for start in range(0, len(keys), episodes_per_update)]
    return [row for update in updates for row in sorted(update, key=lambda row: tags[row]["seq_len"])]
