"""Where success passes a target, from played tasks that say little each."""

import math
import statistics

import numpy as np
import pytest

from trm_agent.warmstart.crossing import MOST_TRIES, by_play, crossing


def success(share: float, place: float, steep: float, target: float) -> float:
    return 1 / (1 + math.exp(-(steep * (share - place) + math.log(target / (1 - target)))))


def test_an_exact_measure_is_followed_along_the_line_and_stops_near_the_target() -> None:
    asked: list[float] = []

    def straight(share: float) -> float:
        asked.append(share)
        return 0.1 + 0.5 * share

    assert by_play()(straight, 0.35, (0.1, 0.6)) == pytest.approx(0.5)
    assert asked == [pytest.approx(0.5)]


def test_a_jump_is_halved() -> None:
    asked: list[float] = []

    def jump(share: float) -> float:
        asked.append(share)
        return float(share > 0.7)

    assert by_play()(jump, 0.5, (0.0, 1.0)) == pytest.approx(0.71875)
    assert asked == [0.5, 0.75, 0.625, 0.6875]


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
        share = by_play()(play, 0.35, ends)
        assert 0.0 <= share <= 1.0
        assert 3 <= len(asked) <= 2 + MOST_TRIES
        errors.append(abs(success(share, place, steep, 0.35) - 0.35))
    # one measurement of 32 tasks has a standard error of 8 points by itself
    assert statistics.median(errors) < 0.06
    assert sorted(errors)[35] < 0.15


def test_of_a_success_that_falls_again_the_first_crossing_is_found() -> None:
    # as measured with SmolLM2: nothing, three quarters two thirds of the way on, half at its end
    shares, rates = [0.0, 0.2, 0.6, 0.8, 1.0], [0.0, 0.3, 0.78, 0.62, 0.47]
    drawn, errors = np.random.default_rng(2), []

    def play(share: float) -> float:
        return drawn.binomial(32, np.interp(share, shares, rates)) / 32

    for _ in range(40):
        share = by_play()(play, 0.35, (0.0, 0.47))
        errors.append(abs(float(np.interp(share, shares, rates)) - 0.35))
    assert statistics.median(errors) < 0.06
    assert sorted(errors)[35] < 0.15


def test_without_time_the_place_is_the_expected_one_and_with_little_time_few_are_tried() -> None:
    tried: list[float] = []

    def play(share: float) -> float:
        tried.append(share)
        return 0.9

    share = by_play(lambda: False)(play, 0.35, (0.03, 0.6))
    assert (tried, share) == ([], crossing((0.0, 0.03), (1.0, 0.6), 0.35))
    by_play(lambda: len(tried) < 2)(play, 0.35, (0.03, 0.6))
    assert len(tried) == 2
