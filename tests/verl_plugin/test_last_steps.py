"""With the strategy `wait` no task is trained on beyond its age, none is dropped, and no update waits in vain."""

import math

import numpy as np
import pytest

pytest.importorskip("verl")

from trm_agent.verl_plugin.driver.last_steps import num_awaited

from .scripted_queue import FAILED, MOST_TASKS, Outcome, ScriptedQueue
from .scripted_training import MIXED, SIZE, Training, filtering

STEPS = 8
WITH_SIGNAL, EQUAL, ALONE, LOST = MIXED, (1.0, 1.0), (FAILED, 1.0), (FAILED, FAILED)


def is_too_late(last_steps: dict[str, int], done: set[str], step: int, size: int, left: int, wanted: int) -> bool:
    """Whether a task misses its last step, if an update takes the oldest that are done, and after it all are."""
    oldest = sorted(last_steps, key=last_steps.__getitem__)
    taken = [task for task in oldest if task in done][:wanted]
    others = [last_steps[task] for task in oldest if task not in taken]
    places = [step] * (left - wanted) + [later for later in range(step + 1, step + 20) for _ in range(size)]
    return any(place > last for place, last in zip(places, others, strict=False))


def test_an_update_waits_for_so_many_old_tasks_as_it_takes_for_none_to_be_too_late():
    draws, found = np.random.default_rng(0), []
    for _ in range(4000):
        size = int(draws.integers(1, 5))
        left = int(draws.integers(1, size + 1))
        wanted = int(draws.integers(1, left + 1))
        last_steps = {f"t{task}": int(last) for task, last in enumerate(draws.integers(5, 9, size=draws.integers(13)))}
        done = {task for task in last_steps if draws.random() < 0.5}
        if len(done) < wanted or is_too_late(last_steps, set(last_steps), 5, size, left, wanted):
            continue
        awaited = num_awaited(last_steps, done, step=5, size=size, left=left, wanted=wanted)
        played = [task for task in sorted(last_steps, key=last_steps.__getitem__) if task not in done]
        assert not is_too_late(last_steps, {*done, *played[:awaited]}, 5, size, left, wanted)
        assert not awaited or is_too_late(last_steps, {*done, *played[: awaited - 1]}, 5, size, left, wanted)
        found.append(awaited)
    assert {0, 1, 2, 3} <= set(found)


def test_a_task_that_is_beyond_its_last_step_is_waited_for():
    # one place in step 5 and four in step 6; a is past its step, b in its last one, and one of them has to be next
    last_steps = {"a": 3, "b": 5, "c": 6}
    assert num_awaited(last_steps, {"c"}, step=5, size=4, left=2, wanted=1) == 1
    assert num_awaited(last_steps, {"a", "c"}, step=5, size=4, left=2, wanted=1) == 0


def played_at_random(draws: np.random.Generator) -> ScriptedQueue:
    """Tasks of which half take far longer than the others; some fail, some are without signal."""
    kinds: list[tuple[Outcome, ...]] = [WITH_SIGNAL, WITH_SIGNAL, WITH_SIGNAL, EQUAL, ALONE, LOST]
    outcomes = [kinds[kind] for kind in draws.integers(len(kinds), size=MOST_TASKS)]
    is_long = draws.random(MOST_TASKS) < 0.5
    delays = np.where(is_long, draws.integers(10, 30, size=MOST_TASKS), draws.integers(1, 4, size=MOST_TASKS))
    return ScriptedQueue(outcomes.__getitem__, delays.tolist().__getitem__)


@pytest.mark.parametrize("seed", range(60))
def test_no_task_is_beyond_the_threshold_and_each_one_that_can_be_is_trained_on_once(seed, monkeypatch):
    draws = np.random.default_rng(seed)
    queue, ahead = played_at_random(draws), float(draws.choice((0.5, 1.5, 2, 3)))
    threshold = 1 + math.ceil(ahead) + int(draws.integers(2))
    updates, resumed = int(draws.integers(1, 3)), int(draws.integers(2, STEPS + 1))
    filter = filtering() if draws.random() < 0.5 else None
    settings = {"updates": updates, "ahead": ahead, "threshold": threshold, "last_step": STEPS}
    run = Training(queue, monkeypatch, filter, **settings)
    trained: list[int] = []
    left_out: list[int] = []
    for step in range(1, STEPS + 1):
        if step == resumed:
            # a new process: an empty queue, whose tasks go on where the last one's ended
            again, left = ScriptedQueue(queue.outcomes, queue.delay), queue.in_play()
            again.num_drawn, again.step = queue.num_drawn, step
            run, queue = Training(again, monkeypatch, filter, restored=left, **settings), again
        batches = run.step()
        assert [len(batch) for batch in batches] == [SIZE // updates] * updates
        assert max(run.ages.values()) <= threshold
        trained += [task for batch in batches for task in batch]
        left_out += run.left_out(batches)
    # none is drawn for steps that do not come, so that all have ended
    assert queue.in_play() == []
    assert len(trained) == len(set(trained)) == STEPS * SIZE
    kinds = {queue.outcomes(task) for task in set(range(queue.num_drawn)) - set(trained)}
    assert kinds <= ({EQUAL, ALONE, LOST} if filter else {LOST})
    assert set(left_out) == (set(range(queue.num_drawn)) - set(trained) if filter else set())
