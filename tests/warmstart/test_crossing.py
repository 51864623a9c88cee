"""Where success passes a target, from played tasks that say little each."""

import math
import statistics

import numpy as np
import pytest

from trm_agent.warmstart.crossing import MOST_TRIES, by_play, expected_crossing


def success(share: float, place: float, steep: float, target: float) -> float:
    return 1 / (1 + math.exp(-(steep * (share - place) + math.log(target / (1 - target)))))


def test_with_very_many_tasks_the_crossing_is_where_it_is() -> None:
    shares = [0.0, 0.25, 0.5, 0.75, 1.0]
    for place in (0.2, 0.45, 0.7):
        rates = [success(share, place, 8.0, 0.35) for share in shares]
        # the grid's step is 1/40
        assert expected_crossing(shares, rates, 100_000, 0.35) == pytest.approx(place, abs=0.02)


def test_without_a_task_the_crossing_may_be_anywhere() -> None:
    assert expected_crossing([], [], 32, 0.35) == pytest.approx(0.5)


def test_a_jump_from_nothing_to_all_is_expected_in_the_middle() -> None:
    assert expected_crossing([0.0, 1.0], [0.0, 1.0], 32, 0.5) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("place", "steep"), [(0.3, 10.0), (0.6, 30.0), (0.85, 5.0)])
def test_32_tasks_at_each_of_a_few_places_settle_near_the_target(place: float, steep: float) -> None:
    drawn = np.random.default_rng(1)
    asked: list[float] = []

    def play(share: float) -> float:
        asked.append(share)
        return drawn.binomial(32, success(share, place, steep, 0.35)) / 32

    errors = []
    for _ in range(40):
        asked.clear()
        ends = play(0.0), play(1.0)
        share = by_play(32)(play, 0.35, ends)
        assert 0.0 <= share <= 1.0
        assert 3 <= len(asked) <= 2 + MOST_TRIES
        errors.append(abs(success(share, place, steep, 0.35) - 0.35))
    # one measurement of 32 tasks has a standard error of 8 points by itself
    assert statistics.median(errors) < 0.06
    assert sorted(errors)[35] < 0.15


def test_without_time_the_place_is_the_expected_one_and_with_little_time_few_are_tried() -> None:
    tried: list[float] = []

    def play(share: float) -> float:
        tried.append(share)
        return 0.9

    share = by_play(32, lambda: False)(play, 0.35, (0.03, 0.6))
    assert (tried, share) == ([], expected_crossing([0.0, 1.0], [0.03, 0.6], 32, 0.35))
    by_play(32, lambda: len(tried) < 2)(play, 0.35, (0.03, 0.6))
    assert len(tried) == 2
