"""Which episodes an asynchronous run trains on, beside a synchronous one with the same tasks and limits."""

from itertools import chain

import pytest

pytest.importorskip("verl")

from trm_agent.verl_plugin.driver.async_buffer import STALE_WAIT

from .scripted_queue import FAILED, MOST_TASKS, ScriptedQueue, buffer, scripted
from .scripted_training import MIXED, SIZE, Training

STEPS = 10
# those of the last step may still be in play
DUE = range((STEPS - 1) * SIZE)


def tasks_of_two_lengths() -> ScriptedQueue:
    """Of each four tasks the last one takes twelve times as long; here and there an episode fails, or raises."""
    queue = ScriptedQueue(
        lambda task: (FAILED, 1.0) if task % 5 == 0 else (1.0, 0.0), lambda task: 12 if is_long(task) else 1
    )
    queue.raised = {task for task in range(MOST_TASKS) if task % 10 == 0}
    return queue


def is_long(task: int) -> bool:
    return task % 4 == 3


def synchronous(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The episodes that a synchronous run trains on, of the due tasks."""
    queue, keys = tasks_of_two_lengths(), []
    made = buffer(queue, monkeypatch)
    for queue.step in range(1, STEPS):
        queue.draw(SIZE)
        batch, _ = made.sample(queue.step, "train", SIZE)
        keys += batch.keys
        queue.kv_clear(batch.keys, "train")
    assert {int(key[1:].split("_")[0]) for key in keys} == set(DUE)
    return keys


def asynchronous(monkeypatch: pytest.MonkeyPatch, strategy: str, updates: int) -> Training:
    run = Training(tasks_of_two_lengths(), monkeypatch, None, updates=updates, threshold=2, strategy=strategy)
    for _ in range(STEPS):
        run.step()
    return run


@pytest.mark.parametrize("updates", [1, 2])
def test_with_wait_no_episode_is_dropped_that_a_synchronous_run_trains_on(updates, monkeypatch):
    expected, run = synchronous(monkeypatch), asynchronous(monkeypatch, "wait", updates)
    assert len(run.keys) == len(set(run.keys))
    assert set(expected) - set(run.keys) == set()
    assert len(expected) == 2 * len(DUE) - sum(task % 5 == 0 for task in DUE)


@pytest.mark.parametrize("updates", [1, 2])
def test_with_drop_the_episodes_of_long_tasks_are_lost_and_told(updates, monkeypatch):
    expected, run = synchronous(monkeypatch), asynchronous(monkeypatch, "drop", updates)
    lost = {int(key[1:].split("_")[0]) for key in set(expected) - set(run.keys)}
    assert lost
    assert all(is_long(task) for task in lost)
    assert 0 < run.num_evicted <= 2 * len(lost)


def two_batches_ahead(monkeypatch: pytest.MonkeyPatch, **settings: int) -> Training:
    """Of twelve tasks that are drawn for the first step, four are over at the next look, and eight after many."""
    queue = ScriptedQueue(lambda _: MIXED, lambda task: 30 if 4 <= task < 12 else 1)
    return Training(queue, monkeypatch, None, ahead=2, **settings)


@pytest.mark.parametrize("updates", [1, 2])
def test_two_batches_ahead_at_the_least_threshold_come_in_the_order_of_their_draw(updates, monkeypatch):
    # the first three steps take twelve tasks, so that of the twelve none may wait for a fourth one
    run = two_batches_ahead(monkeypatch, updates=updates, threshold=3)
    found = [[*chain.from_iterable(run.step())] for _ in range(5)]
    assert found == [[*range(first, first + 4)] for first in (0, 4, 8, 12, 16)]
    assert [run.ages[first] for first in (0, 4, 8, 12, 16)] == [1, 2, 3, 3, 3]


def test_with_a_step_to_spare_others_go_first_until_the_places_are_all_needed(monkeypatch):
    run = two_batches_ahead(monkeypatch, threshold=4)
    found, waited = [], []
    for _ in range(5):
        found += run.step()
        waited.append(run.metrics[STALE_WAIT] > 0)
    # the eight have room in steps 3 and 4, and need it
    assert found == [[*range(first, first + 4)] for first in (0, 12, 4, 8, 16)]
    assert (waited, max(run.ages.values())) == ([False, False, True, False, False], 4)


def test_an_update_waits_for_no_task_that_the_next_one_of_its_step_can_take(monkeypatch):
    # task 0 is ahead of step 1, and has to be in step 2
    queue = ScriptedQueue(lambda _: MIXED, lambda task: 20 if task == 0 else 1)
    run = Training(queue, monkeypatch, None, updates=2, threshold=2)
    assert [run.step(), run.step()] == [[[1, 2], [3, 4]], [[5, 6], [0, 7]]]


@pytest.mark.parametrize("updates", [1, 2])
@pytest.mark.parametrize("strategy", ["wait", "drop"])
def test_a_run_draws_as_many_tasks_as_its_steps_take_and_one_for_each_that_fails(strategy, updates, monkeypatch):
    # ten steps take forty; task 2 fails in the first one, and 39, which is ahead of the last, in that
    queue = ScriptedQueue(scripted(dict.fromkeys((2, 39), (FAILED, FAILED)), MIXED))
    run = Training(queue, monkeypatch, None, updates=updates, threshold=2, strategy=strategy, last_step=STEPS)
    for _ in range(STEPS):
        assert sum(len(batch) for batch in run.step()) == SIZE
    assert (queue.num_drawn, queue.in_play()) == (STEPS * SIZE + 2, [])


def test_a_synchronous_step_leaves_out_and_clears_an_episode_whose_row_did_not_reach_the_queue(monkeypatch):
    queue = ScriptedQueue(lambda _: (1.0, 0.0))
    queue.raised = {1}
    made = buffer(queue, monkeypatch)
    queue.draw(SIZE)
    queue.tags["train"]["t1_2_0"] = {}
    batch, _ = made.sample(1, "train", SIZE)
    assert sorted(batch.keys) == [f"t{task}_{session}_0" for task in range(SIZE) for session in range(2)]
    assert "t1_2_0" not in queue.tags["train"]
