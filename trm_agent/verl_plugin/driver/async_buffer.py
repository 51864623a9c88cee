"""The replay buffer of asynchronous training: groups that fail or grow old make room, and none waits for ever."""

import time
from collections import Counter
from typing import Any

import torch
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBufferAsync

from trm_agent.core.summary import acceptance_by_length
from trm_agent.verl_plugin.driver.replay_buffer import EnvReplayBuffer, first_error, update_order

STALE_WAIT = "run/stale_wait_s"
EVICTED = "env/evicted_episodes"
Reasons = tuple[set[str], set[str], set[str], Counter]


class AsyncEnvReplayBuffer(EnvReplayBuffer, ReplayBufferAsync):
    """Asynchronous sampling for episodes that may fail, with the order of tasks of `EnvReplayBuffer`.

    verl's buffer samples the oldest tasks that are done, and with the strategy `wait` none before every task in play
    that has reached the threshold is done, with `drop` none that is beyond it. It refills what it evicts. Here a task
    whose episodes all failed counts as failed, where verl would take it for done; a batch's worth of failures times
    `max_failed_batches` without a task that is done in between ends the run; and the metrics tell how long a step
    waited for old tasks, or, by length, which episodes it dropped.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._batch_size = 1
        self._num_failed = self._most_done = 0
        self._waits_since: float | None = None
        self._evicted: list[int] = []
        self._drawn: list[str] = []

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict]:
        if partition_id == "val":
            return super().sample(global_steps, partition_id, batch_size)
        self._batch_size, self._num_failed, self._most_done = batch_size, 0, 0
        self._waits_since, self._evicted = None, []
        batch, metrics = ReplayBufferAsync.sample(self, global_steps, partition_id, batch_size)
        metrics[STALE_WAIT] = 0.0 if self._waits_since is None else time.monotonic() - self._waits_since
        if self.max_off_policy_strategy == "drop" and self.max_off_policy_threshold is not None:
            metrics |= evicted_by_length(self._evicted, [tag["response_len"] for tag in batch.tags])
        batch.reorder(update_order(batch.keys, batch.tags, self._drawn, self.episodes_per_update))
        return batch, metrics

    def queue_idle(self) -> float | None:
        self._sync_metadata_from_transfer_queue()
        done = self._done()
        return self.queue_clock.share(None if done is None else done.values())

    def _terminal_eviction_reasons(self, global_steps: int, partition_id: str) -> Reasons:
        if partition_id != "val":
            played = {key.split("_")[0] for key in self.partitions[partition_id]}
            empty = self.finished_keys[partition_id] - played
            self.finished_keys[partition_id] -= empty
            self.failure_keys[partition_id] |= empty
        reasons: Reasons = super()._terminal_eviction_reasons(global_steps, partition_id)
        return reasons

    def _evict_terminal_groups(
        self, global_steps: int, partition_id: str, eviction_reasons: Reasons
    ) -> tuple[set[str], int, int, dict]:
        stale, _, failed, _ = eviction_reasons
        tags = self.partitions[partition_id]
        self._evicted += [tag["response_len"] for key, tag in tags.items() if stale and key.split("_")[0] in stale]
        self._count_failures(len(failed), len(self._sampleable_terminal_keys(partition_id, eviction_reasons)))
        evicted: tuple[set[str], int, int, dict] = super()._evict_terminal_groups(
            global_steps, partition_id, eviction_reasons
        )
        return evicted

    def _count_failures(self, num_failed: int, num_done: int) -> None:
        """Count the tasks that failed since the last one that is done.

        Raises:
            RuntimeError: they are too many: an environment that never works must not look like a run that goes on.
        """
        self._num_failed = num_failed + (self._num_failed if num_done <= self._most_done else 0)
        self._most_done = max(self._most_done, num_done)
        if self._num_failed >= self.max_failed_batches * self._batch_size:
            raise RuntimeError(
                f"no episode of {self._num_failed} tasks in a row could be played: the environment or the rollout "
                f"server is broken; the first: {first_error()}"
            )

    def _has_enough_samples(
        self, global_steps: int, partition_id: str, batch_size: int, sampleable_keys: set[str]
    ) -> bool:
        is_enough: bool = super()._has_enough_samples(global_steps, partition_id, batch_size, sampleable_keys)
        if not is_enough and len(sampleable_keys) >= batch_size and self._waits_since is None:
            self._waits_since = time.monotonic()
        return is_enough

    def _select_prompt_uids(
        self, partition_id: str, sampleable_keys: set[str], batch_size: int
    ) -> tuple[list[str], dict[str, dict], dict[str, int]]:
        # verl breaks ties between tasks of one step by the order of a set
        steps = self.prompt_global_steps[partition_id]
        self._drawn = sorted((uid for uid in steps if uid in sampleable_keys), key=lambda uid: steps[uid])[:batch_size]
        return self._drawn, dict(self.partitions[partition_id]), dict(steps)


def evicted_by_length(evicted: list[int], sampled: list[int]) -> dict[str, float]:
    """Return how many episodes a step dropped, and the share of each quarter by length.

    Args:
        evicted: response tokens of the dropped episodes.
        sampled: of those that the step trains on.

    Returns:
        `env/evicted_episodes`, and `env/evicted_length_q<quarter>` from the shortest quarter of both together on.
    """
    lengths = torch.tensor([*evicted, *sampled], dtype=torch.float64)
    is_evicted = torch.tensor([1.0] * len(evicted) + [0.0] * len(sampled), dtype=torch.float64)
    shares = acceptance_by_length(lengths, is_evicted).tolist()
    metrics = {f"env/evicted_length_q{quarter}": share for quarter, share in enumerate(shares, start=1)}
    return {EVICTED: float(len(evicted)), **metrics}
