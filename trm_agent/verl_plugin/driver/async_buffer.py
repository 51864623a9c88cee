"""The replay buffer of asynchronous training: groups that fail, grow old or teach nothing make room for others."""

import math
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import torch
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import DAPO_FILTERED_REWARD_COUNTS_KEY, ReplayBufferAsync

from trm_agent.core.summary import acceptance_by_length
from trm_agent.tasks import TRAIN
from trm_agent.verl_plugin.driver.last_steps import num_awaited
from trm_agent.verl_plugin.driver.replay_buffer import EnvReplayBuffer, first_error, update_order
from trm_agent.verl_plugin.rollout.overlong import OVERLONG_PARTITION

STALE_WAIT = "run/stale_wait_s"
EVICTED = "env/evicted_episodes"
EVICTED_BY_LENGTH = tuple(f"env/evicted_length_q{quarter}" for quarter in (1, 2, 3, 4))
# verl's of groups that are replaced, which `env/groups/...` and `env/overlong/...` tell with the reasons
_VERLS = (DAPO_FILTERED_REWARD_COUNTS_KEY, "training/filter_groups/evicted_samples")
Reasons = tuple[set[str], set[str], set[str], Counter]


class AsyncEnvReplayBuffer(EnvReplayBuffer, ReplayBufferAsync):
    """Asynchronous sampling for episodes that may fail, with the order of tasks of `EnvReplayBuffer`.

    verl's buffer samples the oldest tasks that are done, with the strategy `drop` none that is beyond the threshold. It
    refills what it evicts. With `wait` it waits for the tasks that have reached the threshold; with more than a batch
    ahead these may be more than a step takes, so that some are trained on beyond it. Here an update waits while one
    would be (`last_steps`), and no longer. A task has failed if none of its episodes can be trained on: verl would take
    one whose episodes all failed for done, and evict one of which a single episode raised. A batch's worth of failures
    times `max_failed_batches` without a task that is done in between ends the run; and the metrics tell how long a step
    waited for old tasks, or, by length, which episodes it has dropped up to this update.

    A step draws as many tasks as keep the number in play: those that it is to take, and `num_warmup_batches` ahead of
    it, as far as steps come after it. With a `watch` that filters, groups without signal are evicted as they end, of
    which the step that finds them keeps count, and others are drawn by the same rule. What the limit of a step forbids
    to draw, the next step draws as it begins.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._num_updates = int(self.trainer_config.get("parameter_sync_step", 1))
        self._batches_ahead = float(self.trainer_config.get("num_warmup_batches", 0))
        self._draw, self.refill_fn = self.refill_fn, self._refill
        # of the run; None: not known, so that tasks are always drawn ahead
        self.last_step: int | None = None
        # gets the number of tasks for which an update waits, at each change
        self.tell_left: Callable[[int], None] = lambda _: None
        self._told_left = -1
        self._step = -1
        # the step that was the last to draw a batch of its own, and how many tasks that was
        self._own_draw = (-1, 0)
        # tasks that the step is to take, and those of them that it has yet to take
        self._size = self._left = 0
        self._num_failed = self._most_done = self._num_left_out = 0
        self._waits_since: float | None = None
        # response tokens of the episodes that the step is done with so far: those that it dropped, and all others
        self._evicted: list[int] = []
        self._others: list[int] = []
        self._drawn: list[str] = []

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict]:
        if partition_id == "val":
            return super().sample(global_steps, partition_id, batch_size)
        self._num_failed = self._most_done = self._num_left_out = 0
        self._waits_since, self._told_left = None, -1
        if global_steps != self._step:
            self._begin_step(global_steps, batch_size * self._num_updates)
        batch, metrics = ReplayBufferAsync.sample(self, global_steps, partition_id, batch_size)
        self._left -= batch_size
        if self.watch is not None:
            self.watch.take(self._drawn)
        metrics[STALE_WAIT] = 0.0 if self._waits_since is None else time.monotonic() - self._waits_since
        if self.max_off_policy_strategy == "drop" and self.max_off_policy_threshold is not None:
            self._others += [tag["response_len"] for tag in batch.tags] + self._masked_lengths(self._drawn)
            metrics |= evicted_by_length(self._evicted, self._others)
        batch.reorder(update_order(batch.keys, batch.tags, self._drawn, self.episodes_per_update))
        return batch, metrics

    def queue_idle(self) -> float | None:
        self._sync_metadata_from_transfer_queue()
        done = self._done()
        return self.queue_clock.share(None if done is None else done.values())

    def num_to_draw(self, step: int, size: int) -> int:
        """Return, and remember, how many tasks a step draws as it begins: as many as it takes, if steps need them."""
        self._sync_metadata_from_transfer_queue()
        self._own_draw = (step, max(0, min(size, size + self._num_ahead(step, size) - self._in_play())))
        return self._own_draw[1]

    def _num_ahead(self, step: int, size: int) -> int:
        """Return how many tasks a step of that size keeps in play for the steps after it."""
        wanted = math.floor(self._batches_ahead * size)
        return wanted if self.last_step is None else min(wanted, (self.last_step - step) * size)

    def _begin_step(self, step: int, size: int) -> None:
        """Begin a step that is to take so many tasks; with a filter, draw what the last one could not."""
        self._step, self._size, self._left = step, size, size
        self._evicted, self._others = [], []
        if self.watch is not None:
            self._sync_metadata_from_transfer_queue()
            drawn = self._own_draw[1] if self._own_draw[0] == step else size
            self.watch.begin(size, max(0, self._in_play() - size), drawn)
            self._refill(0)

    def _refill(self, number: int) -> None:
        """Draw so many tasks, or with a filter those that are missing, as far as the step may draw them."""
        watch = self.watch
        if watch is not None and watch.filter is not None:
            missing = self._left + self._num_ahead(self._step, self._size) - self._in_play()
            number = watch.allowed(max(0, missing))
            watch.add_drawn(number, self._step)
        if number:
            self._draw(number)

    def _in_play(self) -> int:
        """Return how many tasks have been drawn and not been taken or evicted."""
        return len(self.prompt_global_steps[TRAIN])

    def _terminal_eviction_reasons(self, global_steps: int, partition_id: str) -> Reasons:
        if partition_id == "val":
            return set(), set(), set(), Counter()
        ended, played = self._terminal(partition_id), self._played(partition_id)
        self.finished_keys[partition_id], self.failure_keys[partition_id] = ended & played, ended - played
        stale, _, failed, counts = super()._terminal_eviction_reasons(global_steps, partition_id)
        masked = self.partitions[OVERLONG_PARTITION].values()
        # a key is in verl's queue before its tag; of a group that has ended all have one
        overlong = failed & {tag.get("uid") for tag in masked}
        left_out = overlong | self._without_signal(partition_id)
        return stale - left_out, left_out, failed - overlong, counts

    def _without_signal(self, partition_id: str) -> set[str]:
        """Return the tasks without signal, if there is a filter."""
        if self.watch is None:
            return set()
        ended = self._terminal(partition_id)
        self.watch.judge(ended, self.partitions[partition_id], self.partitions[OVERLONG_PARTITION].values())
        return {uid for uid in ended if uid in self.watch.groups}

    def _played(self, partition_id: str) -> set[str]:
        """Return the tasks with an episode to train on."""
        return {key.split("_")[0] for key in self.partitions[partition_id]}

    def _evict_terminal_groups(
        self, global_steps: int, partition_id: str, eviction_reasons: Reasons
    ) -> tuple[set[str], int, int, dict]:
        stale, left_out, failed, _ = eviction_reasons
        self._evicted += self._lengths(stale)
        self._others += self._lengths(left_out) + self._masked_lengths(stale | left_out)
        without_episode = failed | (left_out - self._played(partition_id))
        self._num_left_out += len(left_out - without_episode)
        num_done = len(self._sampleable_terminal_keys(partition_id, eviction_reasons)) + self._num_left_out
        self._count_failures(len(without_episode), num_done)
        evicted: tuple[set[str], int, int, dict] = super()._evict_terminal_groups(
            global_steps, partition_id, eviction_reasons
        )
        if self.watch is not None:
            self.watch.lose(evicted[0])
        for name in _VERLS:
            evicted[3].pop(name, None)
        return evicted

    def _lengths(self, uids: Collection[str]) -> list[int]:
        """Return the response tokens of the tasks' episodes that can be trained on."""
        if not uids:
            return []
        return [tag["response_len"] for key, tag in self.partitions[TRAIN].items() if key.split("_")[0] in uids]

    def _masked_lengths(self, uids: Collection[str]) -> list[int]:
        """Return the response tokens of those that are masked as over-long."""
        masked = self.partitions[OVERLONG_PARTITION].values()
        return [tag["response_tokens"] for tag in masked if tag.get("uid") in uids]

    def _count_failures(self, num_failed: int, num_done: int) -> None:
        """Count the tasks that failed since the last one that is done.

        Raises:
            RuntimeError: they are too many: an environment that never works must not look like a run that goes on.
        """
        self._num_failed = num_failed + (self._num_failed if num_done <= self._most_done else 0)
        self._most_done = max(self._most_done, num_done)
        if self._num_failed >= self.max_failed_batches * self._size:
            raise RuntimeError(
                f"no episode of {self._num_failed} tasks in a row could be played: the environment or the rollout "
                f"server is broken; the first: {first_error()}"
            )

    def _has_enough_samples(
        self, global_steps: int, partition_id: str, batch_size: int, sampleable_keys: set[str]
    ) -> bool:
        old = self._num_old_awaited(global_steps, batch_size, sampleable_keys)
        left = max(0, batch_size - len(sampleable_keys), old)
        if left != self._told_left:
            self.tell_left(left)
            self._told_left = left
        is_enough = left == 0
        if not is_enough and len(sampleable_keys) >= batch_size and self._waits_since is None:
            self._waits_since = time.monotonic()
        watch = self.watch
        if not is_enough and watch is not None and watch.filter is not None and not self._in_flight(partition_id):
            # nothing is played any more, and no further task may be drawn
            watch.check_short(global_steps)
            return True
        return is_enough

    def _num_old_awaited(self, step: int, wanted: int, done: set[str]) -> int:
        """Return for how many old tasks an update waits so that none is trained on beyond the threshold."""
        threshold = self.max_off_policy_threshold
        if threshold is None or self.max_off_policy_strategy != "wait":
            return 0
        last_steps = {uid: drawn + threshold - 1 for uid, drawn in self.prompt_global_steps[TRAIN].items()}
        return num_awaited(last_steps, done, step=step, size=self._size, left=self._left, wanted=wanted)

    def _select_prompt_uids(
        self, partition_id: str, sampleable_keys: set[str], batch_size: int
    ) -> tuple[list[str], dict[str, dict], dict[str, int]]:
        # verl breaks ties between tasks of one step by the order of a set
        steps = self.prompt_global_steps[partition_id]
        self._drawn = sorted((uid for uid in steps if uid in sampleable_keys), key=lambda uid: steps[uid])[:batch_size]
        return self._drawn, dict(self.partitions[partition_id]), dict(steps)


def evicted_by_length(evicted: list[int], others: list[int]) -> dict[str, float]:
    """Return how many episodes a step has dropped, and the share of each quarter by length.

    Args:
        evicted: response tokens of the dropped episodes.
        others: of all others that were played: trained on, masked, or of groups that were left out.

    Returns:
        `env/evicted_episodes`, and `env/evicted_length_q<quarter>` from the shortest quarter of both together on.
    """
    lengths = torch.tensor([*evicted, *others], dtype=torch.float64)
    is_evicted = torch.tensor([1.0] * len(evicted) + [0.0] * len(others), dtype=torch.float64)
    shares = acceptance_by_length(lengths, is_evicted).tolist()
    return {EVICTED: float(len(evicted)), **dict(zip(EVICTED_BY_LENGTH, shares, strict=True))}
