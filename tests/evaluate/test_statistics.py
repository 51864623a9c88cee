"""Intervals against simulated tasks, pass@k and pass^k against every subset."""

from itertools import combinations
from math import comb

import numpy as np
import pytest

from trm_agent.evaluate.statistics.intervals import (
    interval_limits,
    mean_interval,
    pass_at_k,
    pass_hat_k,
    stratum_indices,
)
from trm_agent.runs.rates import wilson

Z = 1.959963984540054


def test_the_interval_covers_with_ragged_samples() -> None:
    rng = np.random.default_rng(1)
    rates = rng.beta(0.3, 0.7, size=(2500, 80))
    num = rng.integers(1, 9, size=rates.shape)
    values = rng.binomial(num, rates) / num
    low, high, _ = interval_limits(values, np.zeros(80, dtype=np.int64))
    assert 0.93 <= np.mean((low <= 0.3) & (high >= 0.3)) <= 0.98


def test_strata_take_the_spread_between_horizons_out_of_the_interval() -> None:
    rng = np.random.default_rng(2)
    means = np.repeat([0.97, 0.8, 0.4, 0.1], 25)
    rates = rng.beta(2 * means, 2 * (1 - means), size=(1000, 100))
    values = rng.binomial(5, rates) / 5
    covered, widths = [], []
    for groups in (np.repeat([0, 1, 2, 3], 25), np.zeros(100, dtype=np.int64)):
        low, high, _ = interval_limits(values, groups)
        covered.append(np.mean((low <= means.mean()) & (high >= means.mean())))
        widths.append(np.mean(high - low))
    assert 0.93 <= covered[0] <= 0.98 < covered[1]
    assert widths[0] < 0.9 * widths[1]


@pytest.mark.parametrize("successes", [0, 1, 3, 10, 29, 30])
def test_one_sample_a_task_gives_nearly_the_exact_interval(successes: int) -> None:
    estimate = mean_interval([1] * successes + [0] * (30 - successes))
    # Clopper and Pearson: the rates at which so few or so many have a probability of 2.5 %
    rates = np.linspace(0, 1, 20_001)
    up_to = sum(comb(30, i) * rates**i * (1 - rates) ** (30 - i) for i in range(successes + 1))
    least = up_to - comb(30, successes) * rates**successes * (1 - rates) ** (30 - successes)
    exact = rates[1 - least >= 0.025][0] if successes else 0.0, rates[up_to >= 0.025][-1] if successes < 30 else 1.0
    np.testing.assert_allclose([estimate.low, estimate.high], exact, atol=0.012)
    assert (estimate.value, estimate.num_tasks) == (pytest.approx(successes / 30), 30)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_alike_has_a_width_and_stays_within_0_and_1(value: float) -> None:
    for num_tasks in (1, 2, 20, 300):
        estimate = mean_interval([value] * num_tasks)
        # Clopper and Pearson's interval of 0 of n ends at 1 - 0.025^(1 / n); a is 0.58 to 0.99 instead of 1
        edge = 1 - 0.025 ** (1 / num_tasks)
        width = estimate.high - estimate.low
        assert 0.65 * edge < width < 1.02 * edge
        assert (estimate.low if value == 0 else estimate.high) == value


def test_equal_tasks_between_0_and_1_have_a_width() -> None:
    estimate = mean_interval([0.5] * 20)
    assert estimate.low < 0.5 < estimate.high


@pytest.mark.parametrize(("num_tasks", "missing"), [(20, 0.11), (26, 0.09), (50, 0.085), (200, 0.085), (400, 0.085)])
def test_tasks_that_agree_leave_room_for_a_kind_that_may_be_missing(num_tasks: int, missing: float) -> None:
    # a kind with the share q is not among n tasks in (1 - q)^n of the evaluations; the others have the rate 0.9
    share = 1 - missing ** (1 / num_tasks)
    assert mean_interval([0.9] * num_tasks).low <= 0.9 * (1 - share)
    assert mean_interval([0.1] * num_tasks).high >= 0.1 + 0.9 * share


def test_more_samples_narrow_the_interval_only_as_far_as_the_tasks_differ() -> None:
    rng = np.random.default_rng(3)

    def width(rates: np.ndarray, samples: int) -> float:
        estimate = mean_interval(rng.binomial(samples, rates) / samples)
        return estimate.high - estimate.low

    equal, extreme = np.full(200, 0.5), np.repeat([0.0, 1.0], 100)
    # the standard error of equal tasks falls by sqrt(16)
    # the standard error of equal tasks falls by sqrt(16); the part of a task that was not seen does not fall, which
    # makes 2 to 14 % at 200 tasks (twelve seeds), 2 to 3 % at 4,000
    assert width(equal, 16) == pytest.approx(width(equal, 1) / 4, rel=0.15)
    assert width(extreme, 16) == pytest.approx(width(extreme, 1), rel=1e-9)


def test_no_task_has_no_rate_and_one_task_a_wide_interval() -> None:
    assert mean_interval([]).value is None
    assert mean_interval([np.nan, np.nan]).num_tasks == 0
    one = mean_interval([0.4], [8])
    assert one.low < 0.1
    assert one.high > 0.8


def test_a_task_without_a_value_is_left_out_with_its_stratum() -> None:
    assert mean_interval([0.2, np.nan, 0.6, 0.4], [1, 2, 1, 1]) == mean_interval([0.2, 0.6, 0.4], [1, 1, 1])


def test_no_rate_is_refused() -> None:
    with pytest.raises(ValueError, match=r"outside of \[0, 1\]"):
        mean_interval([0.5, 1.5])
    with pytest.raises(ValueError, match="strata: got 1 for 2"):
        mean_interval([0.5, 0.5], [1])


def test_strata_of_one_task_are_put_together() -> None:
    assert stratum_indices(["a", "b", "c", "a"]).tolist()[1] == stratum_indices(["a", "b", "c", "a"]).tolist()[2]
    lone = stratum_indices(["a", "b", "b", "b", "c", "c"])
    assert lone[0] == lone[4] != lone[1]
    assert len(set(stratum_indices([4, 8, 16]).tolist())) == 1


@pytest.mark.parametrize("num", [1, 2, 5, 7])
def test_pass_at_k_and_pass_hat_k_are_the_means_over_all_subsets(num: int) -> None:
    for successes in range(num + 1):
        outcomes = [1] * successes + [0] * (num - successes)
        for k in range(1, num + 1):
            subsets = list(combinations(outcomes, k))
            any_, all_ = (np.mean([test(subset) for subset in subsets]) for test in (any, all))
            np.testing.assert_allclose(pass_at_k([num], [successes], k), [any_], atol=1e-12)
            np.testing.assert_allclose(pass_hat_k([num], [successes], k), [all_], atol=1e-12)


def test_pass_at_k_and_pass_hat_k_are_unbiased() -> None:
    # the mean over c ~ Binomial(6, p) must be the truth, 1 - (1 - p)^k and p^k, for every p
    successes = np.arange(7)
    for p in (0.05, 0.5, 0.9):
        weights = np.array([comb(6, c) * p**c * (1 - p) ** (6 - c) for c in successes])
        for k in range(1, 7):
            np.testing.assert_allclose(weights @ pass_at_k(np.full(7, 6), successes, k), 1 - (1 - p) ** k, atol=1e-12)
            np.testing.assert_allclose(weights @ pass_hat_k(np.full(7, 6), successes, k), p**k, atol=1e-12)


def test_many_samples_neither_overflow_nor_lose_digits() -> None:
    # exact integers as the reference
    n, c, k = 20_000, 37, 500
    expected = 1 - comb(n - c, k) / comb(n, k)
    assert pass_at_k([n], [c], k)[0] == pytest.approx(expected, rel=1e-10)
    assert pass_hat_k([n], [n - c], k)[0] == pytest.approx(comb(n - c, k) / comb(n, k), rel=1e-10)
    assert np.isfinite(pass_at_k([10**6], [1], 10**3)).all()


def test_a_task_with_fewer_than_k_samples_has_no_pass_at_k() -> None:
    assert np.isnan(pass_at_k([2, 3], [1, 1], 3)).tolist() == [True, False]
    assert np.isnan(pass_hat_k([2, 3, 0], [2, 3, 0], 3)).tolist() == [True, False, True]


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="k: got 0"):
        pass_at_k([3], [1], 0)
    with pytest.raises(ValueError, match="successes"):
        pass_hat_k([3], [4], 1)


def test_wilson_holds_the_rate() -> None:
    for rate in (0.0, 0.02, 0.5, 0.98, 1.0):
        low, high = wilson(rate, 20)
        assert 0 <= low <= rate <= high <= 1
