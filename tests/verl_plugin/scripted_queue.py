"""A queue of verl's in memory, a player whose episodes end in an order of its own, and the buffers over them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import transfer_queue as tq
from omegaconf import OmegaConf

from trm_agent.verl_plugin.driver.async_buffer import AsyncEnvReplayBuffer
from trm_agent.verl_plugin.driver.replay_buffer import EnvReplayBuffer
from trm_agent.verl_plugin.rollout.overlong import OVERLONG_PARTITION

# an episode that failed for reasons of the infrastructure, and one that was masked as over-long
FAILED, MASKED = "failed", "masked"
# far above what a test needs
MOST_LOOKS, MOST_TASKS = 1000, 200
# reward of an episode, or one of the two
Outcome = float | str


class ScriptedQueue:
    """Tasks 0, 1, 2, ... with scripted episodes, each of which ends some looks after it was drawn.

    Args:
        outcomes: the episodes of a task by its number.
        delay: looks at the queue until a task's episodes are over.
        length: response tokens of a task's first episode; each further one has one more.
    """

    def __init__(
        self,
        outcomes: Callable[[int], Sequence[Outcome]],
        delay: Callable[[int], int] = lambda _: 1,
        length: Callable[[int], int] = lambda _: 4,
    ) -> None:
        self.outcomes, self.delay, self.length = outcomes, delay, length
        self.tags: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        self.rows: dict[str, tuple[float, dict[str, Any]]] = {}
        self.due: dict[int, int] = {}
        self.num_drawn = self.now = 0
        # of the trainer, which is noted of each task
        self.step = 1
        # the step in which a task was drawn
        self.drawn_in: dict[int, int] = {}
        self.most_in_flight = 0
        # tasks of which an episode raised, which verl calls failures
        self.raised: set[int] = set()

    def draw(self, number: int) -> None:
        """Draw the next tasks, as the trainer's refill does."""
        assert self.num_drawn + number <= MOST_TASKS, "the buffer draws for ever"
        self.play(range(self.num_drawn, self.num_drawn + number))
        self.num_drawn += number

    def play(self, numbers: Iterable[int]) -> None:
        """Play tasks from their beginnings."""
        for task in numbers:
            self.tags["train"][f"t{task}"] = {"is_prompt": True, "status": "pending", "global_steps": self.step}
            self.due[task] = self.now + self.delay(task)
            self.drawn_in[task] = self.step
        self.most_in_flight = max(self.most_in_flight, len(self.due))

    def in_play(self) -> list[int]:
        """The numbers of the tasks that have been drawn and are in the queue."""
        return [int(key[1:]) for key, tag in self.tags["train"].items() if tag.get("is_prompt")]

    def tick(self) -> None:
        """Let time pass."""
        self.now += 1
        assert self.now < MOST_LOOKS, "the buffer waits for ever"
        for task in [task for task, due in self.due.items() if due <= self.now]:
            del self.due[task]
            for session, outcome in enumerate(self.outcomes(task)):
                self._end(task, session, outcome)
            self.tags["train"][f"t{task}"]["status"] = "failure" if task in self.raised else "finished"

    def _end(self, task: int, session: int, outcome: Outcome) -> None:
        length = self.length(task) + session
        told = {"uid": f"t{task}", "horizon": 2 + task % 2, "success": outcome == 1, "model_tokens": 10}
        if outcome == MASKED:
            self.tags[OVERLONG_PARTITION][f"m{task}_{session}"] = {**told, "response_tokens": length}
        elif outcome != FAILED:
            key = f"t{task}_{session}_0"
            self.tags["train"][key] = {"seq_len": 1 + length, "response_len": length}
            self.rows[key] = (float(outcome), told)

    def kv_list(self, partition_id: str | None = None) -> dict[str, Any]:
        found = {name: dict(rows) for name, rows in self.tags.items()}
        return found if partition_id is None else {partition_id: found.get(partition_id, {})}

    def kv_clear(self, keys: Sequence[str], partition_id: str) -> None:
        for key in keys:
            self.tags[partition_id].pop(key, None)
            self.rows.pop(key, None)

    def kv_batch_get(self, keys: Sequence[str], partition_id: str, select_fields: Sequence[str]) -> dict[str, Any]:
        rows = [self.rows[key] for key in keys]
        rewards = [torch.tensor([0.0, reward], dtype=torch.float32) for reward, _ in rows]
        fields = {"rm_scores": rewards, "extra_fields": [{"episode": told} for _, told in rows]}
        return {name: fields[name] for name in select_fields}


def buffer(queue: ScriptedQueue, monkeypatch: Any, episodes_per_task: int = 2, **settings: Any) -> EnvReplayBuffer:
    """The replay buffer of a synchronous run over a scripted queue."""
    kwargs = {"tasks_per_update": 4, "episodes_per_task": episodes_per_task, **settings}
    made = EnvReplayBuffer(
        trainer_mode="sync",
        trainer_config=OmegaConf.create({}),
        max_off_policy_threshold=None,
        max_off_policy_strategy="drop",
        sampler_kwargs=OmegaConf.create(kwargs),
        refill_fn=queue.draw,
    )
    return over(queue, made, monkeypatch)


def async_buffer(
    queue: ScriptedQueue,
    monkeypatch: Any,
    size: int = 4,
    updates: int = 1,
    ahead: float = 1,
    threshold: int | None = 3,
    strategy: str = "wait",
) -> AsyncEnvReplayBuffer:
    """The replay buffer of an asynchronous run over a scripted queue.

    Args:
        queue: see `buffer`.
        monkeypatch: as well.
        size: tasks of a step.
        updates: of a step.
        ahead: batches that are ahead of their step.
        threshold: steps within which a task is trained on.
        strategy: what becomes of those that reach it.
    """
    made = AsyncEnvReplayBuffer(
        trainer_mode="separate_async" if updates > 1 else "colocate_async",
        trainer_config=OmegaConf.create({"num_warmup_batches": ahead, "parameter_sync_step": updates}),
        max_off_policy_threshold=threshold,
        max_off_policy_strategy=strategy,
        sampler_kwargs=OmegaConf.create({"tasks_per_update": size // updates, "episodes_per_task": 2}),
        refill_fn=queue.draw,
    )
    return over(queue, made, monkeypatch)


def over(queue: ScriptedQueue, made: Any, monkeypatch: Any) -> Any:
    """Let a buffer look at a scripted queue, whose time passes while it waits."""
    for name in ("kv_list", "kv_clear", "kv_batch_get"):
        monkeypatch.setattr(tq, name, getattr(queue, name))
    monkeypatch.setattr(made, "_wait_for_next_poll", lambda *_: queue.tick())
    return made


def tasks(batch: Any) -> list[str]:
    """The tasks of a batch, each once, in its order."""
    return list(dict.fromkeys(key.split("_")[0] for key in batch.keys))


def scripted(
    table: Mapping[int, Sequence[Outcome]], otherwise: Sequence[Outcome]
) -> Callable[[int], Sequence[Outcome]]:
    """Outcomes of some tasks, and of all others."""
    return lambda task: table.get(task, otherwise)
