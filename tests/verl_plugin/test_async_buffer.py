"""The buffer of asynchronous training: what waits, what is dropped, what fails, and in which order the rest comes."""

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("verl")

from verl.trainer.ppo.v1 import replay_buffer as verls

from trm_agent.verl_plugin.driver import async_buffer, replay_buffer
from trm_agent.verl_plugin.driver.async_buffer import STALE_WAIT, AsyncEnvReplayBuffer
from trm_agent.verl_plugin.driver.several_updates import over_updates

TASKS, EPISODES = 2, 2


class Queue:
    """verl's queue in memory: tags by partition and key, and what happens at each look of the buffer."""

    def __init__(self) -> None:
        self.partitions: dict[str, dict[str, dict]] = {"train": {}}
        self.events: list[Callable[[], None]] = []
        self.looks = 0

    def draw(self, uid: str, step: int) -> None:
        self.partitions["train"][uid] = {"is_prompt": True, "status": "running", "global_steps": step}

    def finish(self, uid: str, *lengths: int, status: str = "finished") -> None:
        """End a task with episodes of these lengths; without any, all of them failed."""
        tags = self.partitions["train"]
        tags[uid] |= {"status": status}
        for session, length in enumerate(lengths):
            tags[f"{uid}_{session}_0"] = {"seq_len": length + 10, "response_len": length}

    def kv_list(self, partition: str | None = None) -> dict[str, dict]:
        self.looks += 1
        found = {name: {key: dict(tag) for key, tag in tags.items()} for name, tags in self.partitions.items()}
        return found if partition is None else {partition: found.get(partition, {})}

    def kv_clear(self, keys: list[str], partition_id: str) -> None:
        for key in keys:
            del self.partitions[partition_id][key]

    def pass_time(self, _: float) -> None:
        assert self.events, "the buffer waits for something that does not come"
        self.events.pop(0)()


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    made = Queue()
    for module in (verls, replay_buffer):
        monkeypatch.setattr(module, "tq", made)
    monkeypatch.setattr(verls.time, "sleep", made.pass_time)
    return made


def buffer(queue: Queue, strategy: str = "wait", threshold: int | None = 2, **changes: Any) -> AsyncEnvReplayBuffer:
    refilled: list[int] = []

    def refill(count: int) -> None:
        for number in range(count):
            queue.draw(f"new{len(refilled)}.{number}", 9)
        refilled.append(count)

    made = AsyncEnvReplayBuffer(
        trainer_mode="colocate_async",
        trainer_config={},
        max_off_policy_threshold=threshold,
        max_off_policy_strategy=strategy,
        sampler_kwargs={"tasks_per_update": TASKS, "episodes_per_task": EPISODES, **changes},
        refill_fn=refill,
    )
    made.refilled = refilled
    return made


def tasks_of(batch: Any) -> list[str]:
    return list(dict.fromkeys(key.split("_")[0] for key in batch.keys))


def test_the_oldest_tasks_come_first_and_their_episodes_by_length(queue):
    for uid, step in (("c", 2), ("a", 1), ("b", 1)):
        queue.draw(uid, step)
        queue.finish(uid, 30 if uid == "a" else 20, 5)
    batch, metrics = buffer(queue).sample(2, "train", TASKS)
    assert batch.keys == ["a_1_0", "b_1_0", "b_0_0", "a_0_0"]
    assert metrics == {STALE_WAIT: 0.0}
    assert set(queue.partitions["train"]) >= {"c", "c_0_0"}
    assert not {"a", "b"} & set(queue.partitions["train"])


def test_with_wait_a_step_waits_for_the_oldest_task_and_drops_none(queue, monkeypatch):
    queue.draw("long", 4)
    for uid in ("x", "y"):
        queue.draw(uid, 5)
        queue.finish(uid, 5, 6)
    now = [100.0]
    monkeypatch.setattr(async_buffer.time, "monotonic", lambda: now[0])

    def later() -> None:
        now[0] += 7.0

    queue.events = [later, lambda: (later(), queue.finish("long", 700, 800))]
    # drawn in step 4, in its second step at step 5: the threshold
    made = buffer(queue)
    batch, metrics = made.sample(5, "train", TASKS)
    assert (tasks_of(batch), metrics) == (["x", "long"], {STALE_WAIT: 14.0})
    assert made.refilled == []


def test_below_the_threshold_nobody_waits(queue):
    queue.draw("long", 4)
    for uid in ("x", "y"):
        queue.draw(uid, 5)
        queue.finish(uid, 5, 6)
    batch, metrics = buffer(queue, threshold=3).sample(5, "train", TASKS)
    assert (tasks_of(batch), metrics) == (["x", "y"], {STALE_WAIT: 0.0})


def test_with_drop_the_old_ones_go_others_come_and_the_metrics_tell_that_they_were_long(queue):
    queue.draw("old", 3)
    queue.finish("old", 700, 800)
    for uid in ("x", "y"):
        queue.draw(uid, 5)
        queue.finish(uid, 5, 6)
    made = buffer(queue, "drop")
    batch, metrics = made.sample(5, "train", TASKS)
    assert (tasks_of(batch), made.refilled) == (["x", "y"], [1])
    # six episodes, of which the two longest went: the third quarter is [3, 4.5), with half of one of them
    assert metrics["env/evicted_episodes"] == 2
    shares = [metrics[f"env/evicted_length_q{quarter}"] for quarter in (1, 2, 3, 4)]
    assert shares == pytest.approx([0, 0, 1 / 3, 1])
    assert metrics["training/off_policy/evicted_samples"] == 1


def test_what_a_step_dropped_is_told_of_all_its_updates_together(queue):
    queue.draw("old", 3)
    queue.finish("old", 700, 800)
    for uid in "wxyz":
        queue.draw(uid, 5)
        queue.finish(uid, 5, 6)
    made = buffer(queue, "drop")
    step = over_updates([made.sample(5, "train", TASKS)[1] for _ in range(2)])
    # both before the first update; ten episodes, of whose last quarter, [7.5, 10), they are two of two and a half
    assert step["env/evicted_episodes"] == 2
    assert [step[f"env/evicted_length_q{quarter}"] for quarter in (1, 2, 3, 4)] == pytest.approx([0, 0, 0, 0.8])
    for uid in "uv":
        queue.draw(uid, 6)
        queue.finish(uid, 5, 6)
    # every step begins anew
    assert made.sample(6, "train", TASKS)[1]["env/evicted_episodes"] == 0


def test_a_step_that_drops_nothing_says_so(queue):
    for uid in ("x", "y"):
        queue.draw(uid, 5)
        queue.finish(uid, 5, 6)
    _, metrics = buffer(queue, "drop").sample(5, "train", TASKS)
    assert [metrics["env/evicted_episodes"], metrics["env/evicted_length_q4"]] == [0, 0]


@pytest.mark.parametrize(("status", "left_over"), [("finished", ()), ("failure", ()), ("failure", ("bad_0_0",))])
def test_a_task_without_an_episode_is_replaced(queue, status, left_over):
    queue.draw("bad", 5)
    queue.finish("bad", status=status)
    # keys of rows that did not reach the queue
    queue.partitions["train"] |= {key: {} for key in left_over}
    queue.draw("good", 5)
    queue.finish("good", 5, 6)
    queue.events = [lambda: queue.finish("new0.0", 7, 8)]
    made = buffer(queue)
    batch, _ = made.sample(5, "train", TASKS)
    assert (tasks_of(batch), made.refilled) == (["good", "new0.0"], [1])
    # nothing of it stays behind
    assert set(queue.partitions["train"]) == set(batch.keys)


@pytest.mark.parametrize("strategy", ["wait", "drop"])
def test_of_a_task_of_which_an_episode_raised_the_others_are_trained_on(queue, strategy):
    # verl calls such a task a failure; the key of the episode that raised has no tag, and no data
    queue.draw("some", 5)
    queue.finish("some", 5, status="failure")
    queue.partitions["train"]["some_1_0"] = {}
    queue.draw("good", 5)
    queue.finish("good", 6, 7)
    # the half of a row that is on its way
    queue.draw("later", 5)
    queue.partitions["train"]["later_0_0"] = {}
    made = buffer(queue, strategy, threshold=3)
    batch, _ = made.sample(5, "train", TASKS)
    assert (batch.keys, made.refilled) == (["some_0_0", "good_0_0", "good_1_0"], [])
    assert set(queue.partitions["train"]) == {*batch.keys, "later", "later_0_0"}


def test_with_drop_a_task_of_which_an_episode_raised_grows_old_like_others(queue):
    queue.draw("old", 3)
    queue.finish("old", 700, status="failure")
    for uid in ("x", "y"):
        queue.draw(uid, 5)
        queue.finish(uid, 5, 6)
    made = buffer(queue, "drop")
    batch, metrics = made.sample(5, "train", TASKS)
    assert (tasks_of(batch), made.refilled, metrics["env/evicted_episodes"]) == (["x", "y"], [1], 1)


def test_an_environment_that_never_works_ends_the_run(queue):
    for uid in ("a", "b"):
        queue.draw(uid, 5)

    def all_fail() -> None:
        for uid, tag in list(queue.partitions["train"].items()):
            if tag.get("status") == "running":
                queue.finish(uid)

    queue.events = [all_fail] * 10
    queue.partitions["infrastructure_failures_train"] = {"k": {"stop_reason": "env_error", "error": "no disk"}}
    made = buffer(queue, max_failed_batches=3)
    with pytest.raises(RuntimeError, match=r"^no episode of 6 tasks in a row .* the first: env_error: no disk"):
        made.sample(5, "train", TASKS)
    # two tasks three times, and the last failures are not replaced
    assert made.refilled == [2, 2]


def test_an_environment_that_works_now_and_then_goes_on(queue):
    for uid in ("a", "b"):
        queue.draw(uid, 5)
    outcomes = iter([(), (), (), (5, 6), (), (), (), (), (7, 8)])

    def one() -> None:
        uid = next(uid for uid, tag in queue.partitions["train"].items() if tag.get("status") == "running")
        queue.finish(uid, *next(outcomes))

    queue.events = [one] * 9
    batch, _ = buffer(queue, max_failed_batches=3).sample(5, "train", TASKS)
    assert sorted(tag["response_len"] for tag in batch.tags) == [5, 6, 7, 8]


def test_a_validation_takes_its_own_tasks_however_old(queue):
    queue.partitions["val"] = {
        "v": {"is_prompt": True, "status": "finished", "global_steps": 1},
        "v_0_0": {"seq_len": 9, "response_len": 5},
    }
    batch, metrics = buffer(queue, "drop").sample(90, "val", 1)
    assert (batch.keys, metrics) == (["v_0_0"], {})
