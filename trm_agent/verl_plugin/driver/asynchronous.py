"""Additions to verl's asynchronous trainers: their buffer, their client, and tasks in play that outlive the process."""

import json
import uuid
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import transfer_queue as tq
from verl.utils import tensordict_utils as tu
from verl.utils.dataset.rl_dataset import collate_fn

from trm_agent.runs.preflight_async import SYNC
from trm_agent.runs.progress import tell_left
from trm_agent.runs.tasks_in_play import IN_PLAY, TaskInPlay, read_tasks_in_play
from trm_agent.verl_plugin.rollout.resuming_client import ResumingClient

BUFFER = "pkg://trm_agent.verl_plugin.driver.async_buffer", "AsyncEnvReplayBuffer"


class AsynchronousMixin:
    """A mixin in front of `PPOTrainerColocateAsync`; `SeparateMixin` is that of servers with devices of their own.

    verl keeps episodes in play, in its queue's own pickles, with a checkpoint. Ours holds the numbers of their tasks
    instead: a resumed run plays them anew, before all others, so that none is lost and none counts twice. Beside the
    number stands what a curriculum chose, which by then would choose otherwise.
    """

    config: Any
    trainer_mode: str
    global_steps: int
    train_dataset: Any
    replay_buffer: Any
    _restored_tq_prompt_count: int
    _in_play: dict[str, TaskInPlay] | None = None
    """The tasks in play by their keys in the queue."""

    def _build_replay_buffer(self) -> Any:
        sampler = self.config.trainer.v1.sampler.custom_sampler
        sampler.path, sampler.name = BUFFER
        buffer = super()._build_replay_buffer()  # type: ignore[misc]
        buffer.last_step = int(self.config.trainer.total_training_steps)
        buffer.tell_left = partial(tell_left, Path(self.config.run.dir))
        return buffer

    def get_llm_client(self) -> ResumingClient:
        client: ResumingClient = rollout_servers(self).get_client(client_cls=ResumingClient)
        return client

    def _add_async_warmup_batches(self, num_warmup_batches: float) -> None:
        # none for steps that do not come, as in `num_to_draw`; a resumed run may be close to its end
        num_left = self.replay_buffer.last_step - self.global_steps + 1
        super()._add_async_warmup_batches(min(num_warmup_batches, num_left))  # type: ignore[misc]

    def _add_batch_to_generate(self) -> None:
        # none for steps that do not come: what the run has beyond them is for tasks in place of others
        if number := self.replay_buffer.num_to_draw(self.global_steps, self.config.data.train_batch_size):
            self._submit_batch_to_rollout(self._next_train_batch(number))  # type: ignore[attr-defined]

    def _submit_batch_to_rollout(self, batch: Any) -> int:
        horizons = _horizons(batch["env_task"]) if self._has_curriculum() else [None] * len(batch["uid"])
        drawn = zip(batch["uid"], batch["index"], horizons, strict=True)
        tasks = {str(uid): TaskInPlay(int(index), horizon) for uid, index, horizon in drawn}
        self._in_play = (self._in_play or {}) | tasks
        submitted: int = super()._submit_batch_to_rollout(batch)  # type: ignore[misc]
        return submitted

    def _save_checkpoint(self) -> None:
        self._write_tasks_in_play()
        self._without_queue(super()._save_checkpoint)  # type: ignore[misc]

    def _load_checkpoint(self) -> None:
        self._without_queue(super()._load_checkpoint)  # type: ignore[misc]

    def _reissue_inflight_prompts(self, partition_id: str = "train") -> int:
        """Draw the tasks again that were in play at the checkpoint."""
        trainer = self.config.trainer
        if trainer.resume_mode != "resume_path":
            return 0
        tasks = read_tasks_in_play(Path(trainer.resume_from_path))
        if tasks:
            self._submit_batch_to_rollout(_batch_of(self.train_dataset, tasks, self.global_steps))
        self._restored_tq_prompt_count = len(tasks)
        return len(tasks)

    def _write_tasks_in_play(self) -> None:
        """Write the tasks of the queue whose episodes have not been sampled, in the order in which they were drawn."""
        tags = (tq.kv_list("train") or {}).get("train", {})
        queued = {key for key, tag in tags.items() if tag.get("is_prompt", False)}
        self._in_play = {uid: task for uid, task in (self._in_play or {}).items() if uid in queued}
        tasks = list(self._in_play.values())
        row: dict[str, list[int | None]] = {"tasks": [task.number for task in tasks]}
        if self._has_curriculum():
            row["horizons"] = [task.horizon for task in tasks]
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / IN_PLAY).write_text(json.dumps(row), encoding="utf-8")

    def _has_curriculum(self) -> bool:
        return getattr(self.train_dataset, "curriculum", None) is not None

    def _without_queue(self, work: Callable[[], None]) -> None:
        """Let verl save or load a checkpoint as if nothing were in play."""
        mode, self.trainer_mode = self.trainer_mode, SYNC
        try:
            work()
        finally:
            self.trainer_mode = mode


def rollout_servers(trainer: Any) -> Any:
    """Return verl's manager of the servers that play: of those with devices of their own, where there are any."""
    return getattr(trainer, "standalone_server_manager", None) or trainer.llm_server_manager


def _horizons(rows: Iterable[str]) -> list[int]:
    """Return the horizon of each of the data set's tasks."""
    return [int(json.loads(row)["options"]["horizon"]) for row in rows]


def _batch_of(dataset: Any, tasks: Iterable[TaskInPlay], step: int) -> Any:
    """Return verl's batch of tasks, as its own loader draws them."""
    rows = collate_fn([_row(dataset, task) for task in tasks])
    rows["uid"] = np.array([str(uuid.uuid4()) for _ in rows["raw_prompt"]], dtype=object)
    batch = tu.get_tensordict(rows)
    tu.assign_non_tensor_data(batch, "global_steps", step)
    return batch


def _row(dataset: Any, task: TaskInPlay) -> dict[str, Any]:
    if task.horizon is None:
        return dict(dataset[task.number])
    return dict(dataset.at_horizon(task.number, task.horizon))
