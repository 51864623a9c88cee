"""The share of a step in which the queue held nothing, against a count over small pieces of time."""

import random

import pytest

from trm_agent.verl_plugin.driver.queue_clock import QueueClock


def clock(began: float) -> QueueClock:
    made = QueueClock()
    made.begin(began)
    return made


def test_a_synchronous_step_holds_something_from_its_first_task_to_its_last():
    made = clock(100.0)
    # tasks are done at 4 and at 6 s, taken at 7 s, and the update takes 3 s
    made.take(107.0, [106.0, 104.0], 0)
    made.end(110.0)
    assert made.share(()) == pytest.approx((4 + 3) / 10)


def test_a_task_that_is_left_keeps_the_queue_from_being_empty():
    made = clock(0.0)
    made.take(4.0, [1.0, 3.0], 1)
    made.end(8.0)
    assert made.share([3.0]) == pytest.approx(1 / 8)
    # so it does in the next step, in which another one comes
    made.begin(10.0)
    made.take(12.0, [3.0, 11.0], 0)
    made.end(14.0)
    assert made.share([13.0]) == pytest.approx(1 / 4)


def test_what_is_done_between_two_steps_counts_from_the_second_one_on():
    made = clock(0.0)
    made.take(1.0, [0.0], 0)
    made.end(2.0)
    assert made.share([2.5]) == pytest.approx(1 / 2)
    made.begin(3.0)
    made.take(4.0, [2.5], 0)
    made.end(5.0)
    assert made.share(()) == pytest.approx(1 / 2)


def test_times_of_another_machine_make_no_share_below_0_or_above_1():
    for done, share in ((-1e6, 0.5), (1e6, 1.0)):
        made = clock(0.0)
        made.take(1.0, [done], 0)
        made.end(2.0)
        assert made.share(()) == share


def test_a_time_that_is_not_known_leaves_the_step_without_a_share_and_the_next_one_has_it():
    made = clock(0.0)
    made.take(1.0, None, 0)
    made.end(2.0)
    assert made.share(()) is None
    made.begin(2.0)
    made.take(3.0, [2.0], 0)
    made.end(4.0)
    assert made.share(()) == pytest.approx(1 / 2)
    assert clock(1.0).share(()) is None


@pytest.mark.parametrize("seed", range(20))
def test_shares_are_those_of_a_count_over_small_pieces(seed):
    """Tasks in no order, several updates a step, batches that leave some; piece by piece the queue is empty or not."""
    draw, made, steps, piece = random.Random(seed), QueueClock(), [], 0.25
    waiting, taken, now = [], [], 0.0
    for _ in range(6):
        now += piece * draw.randrange(3)
        made.begin(now)
        began = now
        for _ in range(draw.randrange(1, 3)):
            came = [now + piece * draw.randrange(9) for _ in range(draw.randrange(4))]
            waiting += came
            now = max([now, *came]) + piece * draw.randrange(4)
            left = draw.sample(waiting, draw.randrange(len(waiting) + 1)) if draw.random() < 0.5 else []
            made.take(now, list(waiting), len(left))
            taken += [(at, now) for at in waiting if at not in left]
            waiting = [at for at in waiting if at in left]
        late = [now + piece * draw.randrange(9) for _ in range(draw.randrange(2))]
        waiting += late
        now += piece * draw.randrange(1, 9)
        made.end(now)
        steps.append((began, now, made.share(list(waiting))))
        now = max([now, *late])
    spans = [*taken, *((at, float("inf")) for at in waiting)]
    for began, ended, share in steps:
        middles = [began + piece * (number + 0.5) for number in range(round((ended - began) / piece))]
        empty = sum(not any(at < middle < until for at, until in spans) for middle in middles)
        assert share == pytest.approx(empty / len(middles))
