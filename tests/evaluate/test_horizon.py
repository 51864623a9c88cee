"""Horizon lengths against curves whose 50 % point is known."""

import numpy as np
import pytest

from trm_agent.evaluate.statistics.horizon import HorizonLength, fit_horizon, geometric

HORIZONS = np.array([2, 4, 8, 16, 32, 64])


def drawn(
    rng: np.random.Generator, length: float, slope: float, num: int, samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tasks of different difficulty whose mean success is 50 % at `length`."""
    horizons = np.repeat(HORIZONS, num)
    mean = 1 / (1 + np.exp(slope * (np.log2(horizons) - np.log2(length))))
    rates = rng.beta(2 * mean, 2 * (1 - mean))
    return horizons, rng.binomial(samples, rates) / samples


def test_the_length_is_found_where_the_curve_is_known() -> None:
    # exact rates of a curve with 50 % at 12 and slope -1.5, in many tasks
    rates = 1 / (1 + np.exp(1.5 * (np.log2(HORIZONS) - np.log2(12))))
    horizons = np.repeat(HORIZONS, 5000)
    fit = fit_horizon(horizons, np.repeat(rates, 5000), num_resamples=50)
    assert fit.status == "inside"
    assert fit.reason is None
    assert fit.steps == pytest.approx(12, rel=1e-3)
    assert fit.slope == pytest.approx(-1.5, rel=1e-3)
    assert (fit.shortest, fit.longest) == (2, 64)


@pytest.mark.slow
def test_the_interval_covers_the_true_length() -> None:
    rng = np.random.default_rng(0)
    fits = [fit_horizon(*drawn(rng, 12, 1.5, 16, 5), seed=i, num_resamples=200) for i in range(300)]
    covered = np.mean([(fit.low or 0) <= 12 <= (fit.high or np.inf) for fit in fits])
    # the standard error of 300 evaluations is 1.3 %
    assert 0.92 <= covered <= 0.99


def test_the_interval_narrows_with_tasks_and_not_with_the_seed() -> None:
    rng = np.random.default_rng(1)
    few, many = (fit_horizon(*drawn(rng, 12, 1.5, num, 5)) for num in (6, 150))
    assert np.log2(few.high / few.low) > 2 * np.log2(many.high / many.low)
    data = drawn(rng, 12, 1.5, 10, 5)
    assert fit_horizon(*data, seed=3) == fit_horizon(*data, seed=3) != fit_horizon(*data, seed=4)


@pytest.mark.parametrize(("length", "status"), [(1.2, "below"), (150, "above")])
def test_a_length_beyond_the_measured_horizons_says_so(length: float, status: str) -> None:
    fit = fit_horizon(*drawn(np.random.default_rng(2), length, 1.5, 200, 5))
    assert fit.status == status
    assert fit.steps == pytest.approx(length, rel=0.3)


def test_a_sharp_fall_has_a_finite_length_and_a_width() -> None:
    success = (HORIZONS <= 8).astype(float)
    fit = fit_horizon(np.repeat(HORIZONS, 10), np.repeat(success, 10))
    assert fit.status == "inside"
    # between the last horizon with all and the first with none
    assert 8 < fit.steps < 16
    assert fit.low < fit.steps < fit.high
    assert np.isfinite(fit.slope)


def test_what_cannot_be_fitted_says_why() -> None:
    def why(horizons: list[float], success: list[float]) -> HorizonLength:
        return fit_horizon(horizons, success)

    above = why([2, 4, 4], [1, 1, 1])
    assert (above.status, above.reason, above.steps, above.low, above.high) == ("above", "all succeed", None, 4, None)
    below = why([2, 4, 4], [0, 0, 0])
    assert (below.status, below.reason, below.steps, below.low, below.high) == ("below", "all fail", None, None, 2)
    assert why([4, 4], [0, 1]).reason == "one horizon"
    assert why([2, 2, 8, 8], [0, 0, 1, 1]).reason == "does not fall"
    assert why([2, 2, 8, 8], [0.5, 0.5, 0.5, 0.5]).reason == "does not fall"
    assert why([], []).reason == "no horizon"
    assert why([np.nan, 4], [1, np.nan]).status == "unknown"


def test_a_hardly_falling_success_has_no_upper_bound() -> None:
    rng = np.random.default_rng(4)
    fit = fit_horizon(np.repeat(HORIZONS, 8), rng.binomial(1, np.repeat([0.8, 0.8, 0.8, 0.75, 0.75, 0.7], 8)))
    assert fit.high is None


@pytest.mark.parametrize("rate", [-0.1, 1.5, 50, -np.inf, np.inf])
def test_a_success_that_is_no_rate_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=r"success: got .*; allowed: rates from 0 to 1; divide"):
        fit_horizon([2, 4, 8], [1, rate, 0])
    # a task without a horizon takes no part
    assert fit_horizon([2, 8, np.nan], [1, 0, rate], num_resamples=20).reason is None


def test_bad_horizons_are_refused() -> None:
    with pytest.raises(ValueError, match="horizons: got 0"):
        fit_horizon([0, 2], [1, 0])
    with pytest.raises(ValueError, match="got 1 for 2"):
        fit_horizon([2], [1, 0])


def test_independent_steps_have_the_geometric_length() -> None:
    # p = 0.9: success 0.9^h, 50 % at ln 0.5 / ln 0.9 = 6.579
    horizons = np.array([2.0, 4, 8])
    model = geometric(horizons, 0.9**horizons, np.full(3, 0.9))
    assert model.step_accuracy == pytest.approx(0.9)
    assert model.steps == pytest.approx(6.5788, abs=1e-4)
    for row in model.by_horizon:
        assert row["predicted_success"] == pytest.approx(row["success"])
        assert row["implied_step_accuracy"] == pytest.approx(0.9)


def test_the_geometric_model_counts_steps_and_knows_its_limits() -> None:
    # 2 steps all right, 8 steps half right: 6 of 10
    model = geometric([2, 8, 8], [1, 0, 0], [1.0, 0.5, np.nan])
    assert model.step_accuracy == pytest.approx(0.6)
    assert [row["implied_step_accuracy"] for row in model.by_horizon] == [1.0, 0.0]
    assert geometric([2], [1], [1.0]).steps is None
    assert geometric([2], [0], [0.0]).steps is None
    assert geometric([2], [1], [np.nan]) is None
