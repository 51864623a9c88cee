"""Where success passes a target, from played tasks that say little each."""

import math
import statistics

import numpy as np
import pytest

from trm_agent.warmstart.crossing import MOST_TRIES, SURE, by_play, fitted, rising


def success(share: float, place: float, steep: float, target: float) -> float:
    return 1 / (1 + math.exp(-(steep * (share - place) + math.log(target / (1 - target)))))


def test_a_curve_through_many_tasks_is_the_one_that_they_come_from() -> None:
    places = [(share, success(share, 0.4, 6.0, 0.35)) for share in (0.0, 0.3, 0.5, 1.0)]
    rise = fitted(places, 100_000, 0.35)
    assert rise.crossing(0.35) == pytest.approx(0.4, abs=1e-3)
    assert rise.slope == pytest.approx(6.0, abs=1e-2)


def test_the_error_is_that_of_repeated_measurements() -> None:
    # none of them is far from the target
    drawn, shares, at = np.random.default_rng(0), (0.3, 0.38, 0.42, 0.45), 0.4
    rises = [
        fitted([(share, drawn.binomial(96, success(share, 0.4, 6.0, 0.35)) / 96) for share in shares], 96, 0.35)
        for _ in range(400)
    ]
    found = [1 / (1 + math.exp(-(rise.start + rise.slope * at))) for rise in rises]
    assert statistics.stdev(found) == pytest.approx(statistics.mean(rise.error(at) for rise in rises), rel=0.1)


def test_a_far_place_counts_a_quarter() -> None:
    near = [(0.3, 0.3), (0.5, 0.45)]
    errors = [fitted([*near, (1.0, rate)], 32, 0.35).error(0.9) for rate in (0.59, 0.61)]
    assert errors[1] > 1.2 * errors[0]


def test_nothing_behind_a_place_that_is_clearly_past_the_target_counts() -> None:
    places = [(0.0, 0.0), (1.0, 0.4), (0.3, 0.5), (0.6, 0.7)]
    assert rising(places, 0.35) == [(0.0, 0.0), (0.3, 0.5), (0.6, 0.7)]
    assert rising(places[:3], 0.35) == [(0.0, 0.0), (0.3, 0.5), (1.0, 0.4)]


def test_a_success_that_does_not_rise_is_halved() -> None:
    assert fitted([(0.0, 0.5), (0.8, 0.2)], 32, 0.35).crossing(0.35) == 0.4


def test_places_are_tried_until_the_crossing_is_sure() -> None:
    asked: list[float] = []

    def exact(share: float) -> float:
        asked.append(share)
        return success(share, 0.4, 6.0, 0.35)

    ends = exact(0.0), exact(1.0)
    share = by_play(32)(exact, 0.35, ends)
    assert share == pytest.approx(0.4, abs=0.02)
    places = [(each, success(each, 0.4, 6.0, 0.35)) for each in asked]
    assert fitted(places[:-1], 32, 0.35).error(share) > SURE >= fitted(places, 32, 0.35).error(share)
    asked.clear()
    by_play(1)(exact, 0.35, ends)
    assert len(asked) == MOST_TRIES, "one task each is never sure"


def test_a_jump_is_found() -> None:
    assert by_play(32)(lambda share: float(share > 0.7), 0.5, (0.0, 1.0)) == pytest.approx(0.7, abs=0.05)


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
    assert sorted(errors)[35] < 0.12


def test_of_a_success_that_falls_again_the_first_crossing_is_found() -> None:
    # as measured with SmolLM2: nothing, three quarters two thirds of the way on, half at its end
    shares, rates = [0.0, 0.2, 0.6, 0.8, 1.0], [0.0, 0.3, 0.78, 0.62, 0.47]
    drawn, errors = np.random.default_rng(2), []

    def play(share: float) -> float:
        return drawn.binomial(32, np.interp(share, shares, rates)) / 32

    for _ in range(40):
        share = by_play(32)(play, 0.35, (0.0, 0.47))
        errors.append(abs(float(np.interp(share, shares, rates)) - 0.35))
    assert statistics.median(errors) < 0.06
    assert sorted(errors)[35] < 0.15


def test_without_time_the_place_is_the_expected_one_and_with_little_time_few_are_tried() -> None:
    tried: list[float] = []

    def play(share: float) -> float:
        tried.append(share)
        return 0.9

    share = by_play(32, lambda: False)(play, 0.35, (0.03, 0.6))
    assert (tried, share) == ([], fitted([(0.0, 0.03), (1.0, 0.6)], 32, 0.35).crossing(0.35))
    by_play(32, lambda: len(tried) < 2)(play, 0.35, (0.03, 0.6))
    assert len(tried) == 2
