"""Paired comparisons against simulated checkpoints and enumerated swaps."""

import itertools
import time

import numpy as np
import pytest

from trm_agent.evaluate.statistics.paired import compare, difference_limits, student_quantile, swap_p_value


def played(rng: np.random.Generator, num: int, samples: int, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Two checkpoints on the same tasks; the second has odds of success that are higher by exp(gain)."""
    logits = rng.normal(0, 1.5, size=num)
    first, second = (1 / (1 + np.exp(-logits - shift)) for shift in (0.0, gain))
    return rng.binomial(samples, first) / samples, rng.binomial(samples, second) / samples


@pytest.mark.parametrize(("num", "samples"), [(25, 16), (60, 5), (200, 1)])
def test_equal_checkpoints_are_told_apart_in_5_of_100_evaluations(num: int, samples: int) -> None:
    rng = np.random.default_rng(0)
    differences = np.array([np.subtract(*played(rng, num, samples, 0.0)) for _ in range(1000)])
    # 1,000 evaluations: the standard error is 0.7 %
    rejected = [swap_p_value(row, rng, 300) <= 0.05 for row in differences]
    assert 0.03 <= np.mean(rejected) <= 0.07
    low, high = difference_limits(differences, np.zeros(num, dtype=np.int64))
    assert 0.93 <= np.mean((low <= 0) & (high >= 0)) <= 0.995


def test_the_interval_covers_the_true_difference_and_a_gain_is_found() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 1.5, size=10**6)
    truth = np.mean(1 / (1 + np.exp(-logits - 0.7)) - 1 / (1 + np.exp(-logits)))
    differences = np.array([other - one for one, other in (played(rng, 80, 5, 0.7) for _ in range(600))])
    low, high = difference_limits(differences, np.zeros(80, dtype=np.int64))
    assert 0.93 <= np.mean((low <= truth) & (high >= truth)) <= 0.99
    assert np.mean([swap_p_value(row, rng, 300) <= 0.05 for row in differences]) > 0.8


def test_pairing_takes_the_difficulty_of_the_tasks_out() -> None:
    rng = np.random.default_rng(2)
    first = np.repeat([0.0, 1.0], 50)
    # every fifth hard task is solved; unpaired, the standard error of the difference would be 7 %
    second = np.where((np.arange(100) % 5 == 0) & (first == 0), 1.0, first)
    comparison = compare(first, second)
    assert comparison.difference == pytest.approx(0.1)
    assert comparison.low > 0.03
    assert comparison.p_value < 0.01
    shuffled = compare(first, rng.permutation(second))
    assert shuffled.low < 0 < shuffled.high


@pytest.mark.parametrize("num", [1, 2, 5, 19])
@pytest.mark.parametrize("difference", [-0.6, -0.24, 0.0, 0.6])
def test_few_tasks_that_agree_leave_an_interval_of_some_width(num: int, difference: float) -> None:
    comparison = compare(np.full(num, 0.6), np.full(num, 0.6 + difference).clip(0, 1))
    assert comparison.high - comparison.low > 1.5 / (num + 4)
    # what a test of 5 tasks and fewer cannot tell from chance, the interval must not exclude
    assert num > 5 or comparison.low < 0 < comparison.high
    assert comparison.note is not None


def test_the_p_value_of_few_tasks_is_that_of_all_swaps() -> None:
    first, second = np.array([0.0, 0.2, 0.4, 0.4, 1.0]), np.array([0.6, 0.2, 1.0, 0.2, 1.0])
    moved = [0.6, 0.6, -0.2]
    sums = [
        abs(sum(s * d for s, d in zip(signs, moved, strict=True))) for signs in itertools.product((1, -1), repeat=3)
    ]
    expected = np.mean([1.0 if s > 1 + 1e-9 else 0.5 if s > 1 - 1e-9 else 0.0 for s in sums])
    assert compare(first, second).p_value == pytest.approx(expected)


def test_random_swaps_agree_with_all_swaps() -> None:
    rng = np.random.default_rng(3)
    differences = rng.normal(0.15, 0.4, size=14).clip(-1, 1)
    sums = np.array([np.dot(signs, differences) for signs in itertools.product((1, -1), repeat=14)])
    exact = np.mean(np.abs(sums) >= abs(differences.sum()) - 1e-9)
    assert compare(np.zeros(14), differences).p_value == pytest.approx(exact, abs=0.015)


def test_swapping_the_checkpoints_turns_the_result_round() -> None:
    first, second = played(np.random.default_rng(4), 40, 5, 0.5)
    one, other = compare(first, second), compare(second, first)
    assert one.difference == pytest.approx(-other.difference)
    assert one.p_value == pytest.approx(other.p_value, abs=0.02)
    assert one.low == pytest.approx(-other.high, abs=0.02)


def test_tasks_that_all_differ_alike_leave_a_width() -> None:
    same = compare([0.0] * 20 + [1.0] * 20, [0.0] * 20 + [1.0] * 20)
    # 0 of 40 leave up to 1 - 0.025^(1 / 40) = 0.088 of the tasks, by Clopper and Pearson
    np.testing.assert_allclose([same.low, same.high], [-0.088, 0.088], atol=0.006)
    assert (same.difference, same.p_value) == (0, 1)
    solved = compare([0.0] * 20, [1.0] * 20)
    assert solved.high == 1
    assert 0.5 < solved.low < 1
    assert solved.p_value < 0.001


def test_a_task_that_one_lacks_is_left_out() -> None:
    comparison = compare([0.0, np.nan, 0.5, 0.2], [0.4, 1.0, np.nan, 0.2])
    assert comparison.num_tasks == 2
    assert comparison.difference == pytest.approx(0.2)
    nothing = compare([np.nan], [1.0])
    assert (nothing.difference, nothing.low, nothing.high, nothing.p_value, nothing.num_tasks) == (None,) * 4 + (0,)
    with pytest.raises(ValueError, match="got 1 and 2 tasks"):
        compare([0.0], [0.0, 1.0])


def test_strata_take_out_what_differs_between_horizons() -> None:
    rng = np.random.default_rng(5)
    gains = np.repeat([0.0, 0.8], 50)
    second = np.clip(gains + rng.normal(0, 0.02, size=100), 0, 1)
    with_, without = (compare(np.zeros(100), second, strata=s) for s in (np.repeat([4, 8], 50).tolist(), None))
    assert with_.high - with_.low < 0.2 * (without.high - without.low)


def test_300_tasks_take_well_below_a_second() -> None:
    first, second = np.random.default_rng(6).random((2, 300))
    compare(first, second)
    start = time.process_time()
    compare(first, second)
    assert time.process_time() - start < 0.5


def test_the_seed_decides() -> None:
    data = played(np.random.default_rng(7), 50, 5, 0.3)
    assert compare(*data, seed=1) == compare(*data, seed=1) != compare(*data, seed=2)


@pytest.mark.parametrize(
    ("degrees", "value"), [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (60, 2.000)]
)
def test_students_quantiles_are_those_of_the_tables(degrees: int, value: float) -> None:
    assert student_quantile(degrees) == pytest.approx(value, rel=2e-3)
