"""Groups without signal in asynchronous runs: on the run's buffer, over a queue whose episodes are scripted."""

import numpy as np
import pytest

pytest.importorskip("verl")

from trm_agent.runs.screen import step_line
from trm_agent.verl_plugin.driver.async_buffer import EVICTED, EVICTED_BY_LENGTH, STALE_WAIT
from trm_agent.verl_plugin.driver.dynamic_sampling import Filter, TooFewGroups
from trm_agent.verl_plugin.rollout.overlong import OVERLONG_PARTITION

from .scripted_queue import FAILED, MASKED, Outcome, ScriptedQueue, scripted
from .scripted_training import MIXED, SIZE, Training, filtering

RIGHT, WRONG = (1.0, 1.0), (0.0, 0.0)
REASONS: dict[tuple[Outcome, ...], str] = {
    RIGHT: "all_right",
    WRONG: "all_wrong",
    (0.5, 0.5): "all_wrong",
    (FAILED, 1.0): "alone",
    (FAILED, FAILED): "infrastructure",
    (FAILED, MASKED): "overlong",
    (MASKED, MASKED): "overlong",
}


def drawn_at_random(seed: int) -> ScriptedQueue:
    """Tasks with and without signal, of all kinds and of different lengths; two of those with signal are very long."""
    draws = np.random.default_rng(seed)
    kinds = [MIXED, MIXED, MIXED, *REASONS]
    outcomes = dict(enumerate(kinds[kind] for kind in draws.integers(len(kinds), size=200)))
    delays = dict(enumerate(draws.integers(1, 9, size=200).tolist()))
    outcomes |= dict.fromkeys((3, 9), MIXED)
    delays |= dict.fromkeys((3, 9), 45)
    return ScriptedQueue(outcomes.__getitem__, delays.__getitem__)


@pytest.mark.parametrize("strategy", ["wait", "drop"])
@pytest.mark.parametrize("updates", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_every_update_is_full_of_groups_with_signal_and_every_task_ends_once(seed, updates, strategy, monkeypatch):
    queue = drawn_at_random(seed)
    run = Training(queue, monkeypatch, filtering(), updates=updates, strategy=strategy)
    steps: dict[int, int] = dict.fromkeys(range(SIZE), 1)
    ended: list[int] = []
    for step in range(1, 9):
        before = queue.num_drawn
        batches = run.step()
        steps |= dict.fromkeys(range(before, queue.num_drawn), step)
        taken, left_out = [task for batch in batches for task in batch], run.left_out(batches)
        assert [len(batch) for batch in batches] == [SIZE // updates] * updates
        assert {queue.outcomes(task) for task in taken} == {MIXED}
        # none is older than the threshold, and what is done and stays is no older than the last that was taken
        assert all(step - steps[task] < 3 for task in taken)
        assert all(steps[int(uid[1:])] >= max(steps[task] for task in batches[-1]) for uid in run.watch.waiting)
        told = run.watch.metrics()
        assert (told["env/groups/with_signal"], told["env/groups/drawn"]) == (SIZE, queue.num_drawn - before)
        assert told["env/groups/refilled"] == told["env/groups/drawn"] - SIZE
        assert told["env/groups/without_signal"] == len(left_out)
        for reason in set(REASONS.values()):
            found = sum(REASONS[queue.outcomes(task)] == reason for task in left_out)
            assert told[f"env/groups/without_signal/{reason}"] == found
        # one for one: as many are ahead of the next step as were before the first
        assert len(queue.in_play()) == SIZE
        ended += [*taken, *left_out]
    lost = set(range(queue.num_drawn)) - set(ended) - set(queue.in_play())
    assert len(ended) == len(set(ended))
    assert len(run.drained) == len(ended) + len(lost)
    # only what is too old is lost, and only where that is asked for
    assert bool(lost) == (strategy == "drop")
    assert all(queue.outcomes(task) == MIXED for task in lost)
    assert run.num_evicted == 2 * len(lost)


def test_a_step_waits_for_old_tasks_with_a_filter_too(monkeypatch):
    # task 0 is played over two steps; all others are done at the next look
    queue = ScriptedQueue(scripted({0: MIXED}, MIXED), lambda task: 20 if task == 0 else 1)
    run = Training(queue, monkeypatch, filtering(), threshold=2)
    assert run.step() == [[1, 2, 3, 4]]
    assert run.step() == [[0, 5, 6, 7]]
    assert run.metrics[STALE_WAIT] > 0


def test_what_ended_during_an_update_counts_for_the_step_that_finds_it(monkeypatch):
    queue = ScriptedQueue(scripted({5: WRONG}, MIXED), lambda task: 2 if task == 5 else 1)
    run = Training(queue, monkeypatch, filtering())
    assert run.step() == [[0, 1, 2, 3]]
    assert run.watch.metrics()["env/groups/without_signal"] == 0
    assert run.step() == [[4, 6, 7, 8]]
    told = run.watch.metrics()
    assert (told["env/groups/drawn"], told["env/groups/without_signal/all_wrong"]) == (5, 1)


def test_the_last_generation_batch_ends_the_run_and_those_ahead_are_told(monkeypatch):
    queue = ScriptedQueue(lambda task: MIXED if task % 4 == 0 else WRONG)
    with pytest.raises(TooFewGroups) as stopped:
        Training(queue, monkeypatch, filtering(max_batches=2)).step()
    # two batches of four, and one that was ahead
    assert queue.num_drawn == 12
    told = "step 1: 3 of 4 groups have signal after 8 tasks, 2 generation batches, and 4 that were ahead; "
    assert str(stopped.value).startswith(f"{told}without: 9 all wrong; raise algorithm.filter_groups.max_num_gen_b")


def test_what_a_step_may_not_draw_the_next_one_draws(monkeypatch):
    queue = ScriptedQueue(lambda task: WRONG if task < 6 else MIXED)
    run = Training(queue, monkeypatch, filtering(max_batches=2))
    # of tasks 0 to 7 six are wrong, and four may be replaced: two less are ahead
    assert run.step() == [[6, 7, 8, 9]]
    assert (run.watch.metrics()["env/groups/refilled"], queue.in_play()) == (4, [10, 11])
    assert run.step() == [[10, 11, 12, 13]]
    assert (run.watch.metrics()["env/groups/refilled"], queue.in_play()) == (2, [14, 15, 16, 17])
    run.step()
    assert run.watch.metrics()["env/groups/refilled"] == 0


@pytest.mark.parametrize("updates", [1, 2])
def test_a_short_batch_may_be_trained_on_unless_an_update_has_none(updates, monkeypatch):
    short = filtering(max_batches=2, short_batch="train")
    queue = ScriptedQueue(lambda task: MIXED if task in (0, 4, 8) else RIGHT)
    run = Training(queue, monkeypatch, short, updates=updates)
    assert run.step() == ([[0, 4, 8]] if updates == 1 else [[0, 4], [8]])
    assert run.watch.num_taken == 3 - 2 * (updates - 1)
    # a full batch and those ahead are drawn anew, and not what the short batch lacked as well
    with pytest.raises(TooFewGroups, match=r"^step 2: 0 of 4 groups have signal after 8 tasks"):
        run.step()
    assert queue.num_drawn == 20


def test_a_group_that_one_update_took_is_not_there_for_the_next(monkeypatch):
    queue = ScriptedQueue(lambda task: MIXED if task in (0, 4) else RIGHT)
    with pytest.raises(TooFewGroups, match=r"^step 1: 2 of 4 groups have signal after 8 tasks"):
        Training(queue, monkeypatch, filtering(max_batches=2, short_batch="train"), updates=2).step()


@pytest.mark.parametrize("updates", [1, 2])
@pytest.mark.parametrize("strategy", ["wait", "drop"])
def test_a_third_of_the_tasks_that_fail_stalls_nothing(strategy, updates, monkeypatch):
    queue = ScriptedQueue(lambda task: (FAILED, FAILED) if task % 3 == 0 else MIXED, lambda task: 1 + task % 5)
    run = Training(queue, monkeypatch, filtering(max_batches=3), 8, updates, strategy=strategy)
    failed = 0.0
    for _ in range(8):
        assert sum(len(batch) for batch in run.step()) == 8
        failed += run.watch.metrics()["env/groups/without_signal/infrastructure"]
    assert failed + sum(task % 3 == 0 for task in queue.in_play()) == -(-queue.num_drawn // 3)


def test_an_old_group_without_signal_is_left_out_and_not_lost_for_its_age(monkeypatch):
    queue = ScriptedQueue(scripted({0: WRONG, 1: MIXED}, MIXED), lambda task: 8 if task < 2 else 1)
    run = Training(queue, monkeypatch, filtering(), threshold=2, strategy="drop")
    found = {}
    for _ in range(5):
        run.step()
        found |= {task: reason for task in run.left_out([]) if (reason := run.watch.groups[f"t{task}"].lacks_signal())}
    # two episodes of task 1
    assert (found, run.num_evicted) == ({0: "all_wrong"}, 2)


def test_a_task_of_which_an_episode_raised_is_judged_by_the_others(monkeypatch):
    queue = ScriptedQueue(scripted({1: (*MIXED, FAILED), 2: (1.0, FAILED), 3: (FAILED, FAILED)}, MIXED))
    queue.raised = {1, 2, 3}
    run = Training(queue, monkeypatch, filtering())
    assert [sorted(batch) for batch in run.step()] == [[0, 1, 4, 5]]
    told = run.watch.metrics()
    assert told["env/groups/without_signal/infrastructure"] == told["env/groups/without_signal/alone"] == 1


@pytest.mark.parametrize("filter", [None, filtering(), filtering(max_batches=9)])
def test_an_environment_that_never_works_ends_the_run_with_its_error(filter, monkeypatch):
    queue = ScriptedQueue(lambda _: (FAILED, FAILED))
    queue.tags["infrastructure_failures_train"]["f"] = {"stop_reason": "env_error", "error": "the disk is full"}
    with pytest.raises(RuntimeError, match=r"^no episode of 16 tasks in a row .*: env_error: the disk is full"):
        Training(queue, monkeypatch, filter).step()


@pytest.mark.parametrize("filter", [None, filtering()])
def test_so_it_does_where_every_episode_is_masked(filter, monkeypatch):
    queue = ScriptedQueue(lambda _: (MASKED, MASKED))
    with pytest.raises(RuntimeError, match=r"^no episode of 16 tasks in a row .* but 32 episodes ran out of tokens"):
        Training(queue, monkeypatch, filter).step()


def test_wrong_answers_show_that_an_environment_works(monkeypatch):
    # 24 tasks fail, which is twice as many as end a run, and every third is wrong
    queue = ScriptedQueue(lambda task: MIXED if task > 35 else WRONG if task % 3 == 0 else (FAILED, FAILED))
    assert Training(queue, monkeypatch, filtering()).step() == [[36, 37, 38, 39]]


def test_without_a_filter_a_group_that_is_masked_as_a_whole_is_replaced_and_is_no_failure(monkeypatch):
    queue = ScriptedQueue(scripted({0: (MASKED, MASKED), 1: (MASKED, 1.0), 2: (FAILED, FAILED)}, MIXED))
    # a key whose tag is still on its way
    queue.tags[OVERLONG_PARTITION]["m9_0"] = {}
    run = Training(queue, monkeypatch, None)
    assert [sorted(batch) for batch in run.step()] == [[1, 3, 4, 5]]
    assert run.metrics["training/rollout_failure/evicted_samples"] == 1
    assert not [name for name in run.metrics if "filter_groups" in name]
    # a curriculum learns of the masked one, and of none that waits
    assert sorted(group.num_masked for group in run.drained) == [0, 0, 0, 0, 1, 2]
    assert run.watch.metrics() == {}


@pytest.mark.parametrize("updates", [1, 2])
def test_a_resumed_run_plays_what_was_in_play_and_no_group_is_done_twice(updates, monkeypatch):
    queue = drawn_at_random(7)
    done: list[int] = []
    run = Training(queue, monkeypatch, filtering(), updates=updates)
    for step in range(1, 7):
        if step == 4:
            # a new process: an empty queue, whose tasks go on where the last one's ended
            again = ScriptedQueue(queue.outcomes, queue.delay)
            again.num_drawn, again.step, left = queue.num_drawn, step, queue.in_play()
            run, queue = Training(again, monkeypatch, filtering(), updates=updates, restored=left), again
        batches = run.step()
        done += [task for batch in batches for task in batch] + run.left_out(batches)
        assert [len(batch) for batch in batches] == [SIZE // updates] * updates
    assert sorted([*done, *queue.in_play()]) == list(range(queue.num_drawn))


@pytest.mark.parametrize("updates", [1, 2])
@pytest.mark.parametrize(("ahead", "drawn"), [(1, [9, 13, 13]), (1.5, [11, 13, 13]), (2.5, [13, 13, 13])])
def test_no_task_is_drawn_for_a_step_that_will_not_come(ahead, drawn, updates, monkeypatch):
    # three steps of four tasks need twelve with signal, and task 2 is without, which the first step finds
    queue = ScriptedQueue(scripted({2: WRONG}, MIXED), lambda task: 1 if task == 2 else 1 + task % 3)
    run = Training(queue, monkeypatch, filtering(), updates=updates, ahead=ahead, last_step=3)
    found = []
    for _ in range(3):
        assert sum(len(batch) for batch in run.step()) == SIZE
        found.append(queue.num_drawn)
    assert (found, queue.in_play()) == (drawn, [])


def test_the_last_step_replaces_groups_within_its_limit_though_it_began_with_tasks_that_were_ahead(monkeypatch):
    # of the two steps' eight tasks two are without signal, and the second step, which drew none of its own, finds them
    queue = ScriptedQueue(scripted({6: WRONG, 7: RIGHT}, MIXED), lambda task: 1 if task < 4 else 10)
    run = Training(queue, monkeypatch, filtering(1), last_step=2)
    assert run.step() == [[0, 1, 2, 3]]
    assert queue.num_drawn == 8
    assert run.step() == [[4, 5, 8, 9]]
    told = run.watch.metrics()
    assert (told["env/groups/drawn"], told["env/groups/refilled"], queue.num_drawn) == (2, 2, 10)
    assert "groups 4 of 6  " in step_line({"step": 2, **told}, 2, [1.0])


def test_places_are_kept_for_all_that_are_ahead_though_some_turn_out_to_be_without_signal(monkeypatch):
    # twelve are drawn in the first step, eight of them are long; task 5 is without signal, and 16 comes in its place
    queue = ScriptedQueue(scripted({5: WRONG}, MIXED), lambda task: 30 if 4 <= task < 12 else 1)
    run = Training(queue, monkeypatch, filtering(), ahead=2, threshold=3)
    found = [task for _ in range(5) for batch in run.step() for task in batch]
    assert found == [task for task in range(21) if task != 5]
    # those of the second step, 12 and on, are within three up to the fourth
    assert max(run.ages.values()) == 3


def evicted_in_the_third_step(queue: ScriptedQueue, monkeypatch: pytest.MonkeyPatch, filter: Filter | None) -> dict:
    """What a run with `drop` tells of its third step, in which tasks that were ahead of the first one are too old."""
    run = Training(queue, monkeypatch, filter, threshold=2, strategy="drop")
    for _ in range(3):
        run.step()
    return {name: run.metrics[name] for name in (EVICTED, *EVICTED_BY_LENGTH)}


@pytest.mark.parametrize("without_signal", [WRONG, (MASKED, MASKED), (MASKED, 0.0)])
def test_what_is_dropped_is_a_share_of_all_that_was_played_groups_without_signal_included(without_signal, monkeypatch):
    # tasks 0 and 1 are over in the third step, with 100, 101 and 200, 201 tokens; it trains on eight episodes of 4 or 5
    queue = ScriptedQueue(
        scripted({1: without_signal}, MIXED),
        lambda task: 4 if task < 2 else 1,
        lambda task: 100 * (task + 1) if task < 2 else 4,
    )
    found = evicted_in_the_third_step(queue, monkeypatch, filtering())
    # quarters of three: the third holds the first of the two that are dropped, the fourth the other one
    assert list(found.values()) == pytest.approx([2, 0, 0, 1 / 3, 1 / 3])


def test_a_masked_episode_of_a_dropped_task_was_played_and_is_masked(monkeypatch):
    queue = ScriptedQueue(
        scripted({0: (1.0, MASKED)}, MIXED), lambda task: 4 if task < 1 else 1, lambda task: 4 if task else 100
    )
    found = evicted_in_the_third_step(queue, monkeypatch, None)
    # ten episodes in all: the last quarter, of two and a half, ends with the dropped one and the masked one
    assert list(found.values()) == pytest.approx([1, 0, 0, 0, 1 / 2.5])
