"""Firth's fit against a search of the penalised likelihood that knows neither scores nor steps."""

import itertools

import numpy as np
import pytest

from trm_agent.evaluate.statistics import horizon
from trm_agent.evaluate.statistics.horizon import fit_horizon
from trm_agent.evaluate.statistics.logistic import firth_logistic

pytestmark = pytest.mark.slow


def penalised(a: np.ndarray, b: np.ndarray, x: np.ndarray, num: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Log-likelihood and Jeffreys' penalty, the determinant as a sum over pairs of levels."""
    logits = a[..., None] + b[..., None] * x
    yes, no = -np.logaddexp(0, -logits), -np.logaddexp(0, logits)
    weights = num * np.exp(yes + no)
    pairs = itertools.combinations(range(len(x)), 2)
    determinant = sum(weights[..., i] * weights[..., j] * (x[i] - x[j]) ** 2 for i, j in pairs)
    return (num * (rates * yes + (1 - rates) * no)).sum(-1) + 0.5 * np.log(determinant + 1e-300)


def searched(x: np.ndarray, num: np.ndarray, rates: np.ndarray) -> tuple[float, float]:
    """The best of a grid of values at both ends of the horizons, refined around the best point."""
    centre, half = np.zeros(2), 12.0
    for _ in range(45):
        ends = [np.linspace(c - half, c + half, 25) for c in centre]
        first, last = np.meshgrid(*ends, indexing="ij")
        slope = (last - first) / (x[-1] - x[0])
        best = np.argmax(penalised(first - slope * x[0], slope, x, num, rates))
        centre, half = np.array([first.flat[best], last.flat[best]]), half * 0.7
    slope = (centre[1] - centre[0]) / (x[-1] - x[0])
    return float(centre[0] - slope * x[0]), float(slope)


def random_problem(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    levels = int(rng.integers(2, 7))
    x = np.sort(np.log2(rng.choice(np.arange(1, 300), levels, replace=False)))
    num = rng.integers(1, rng.choice([2, 4, 60]), levels).astype(float)
    rates = rng.random(levels)
    return x, num, np.where(rng.random(levels) < 0.5, np.round(rates), rates)


def test_the_fit_is_the_best_of_a_grid() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, num, rates = random_problem(rng)
        fit = firth_logistic(x, num, rates[None])
        assert fit.converged.all()
        found, best = (penalised(np.array(a), np.array(b), x, num, rates) for a, b in (
            (float(fit.intercept[0]), float(fit.slope[0])), searched(x, num, rates)))  # fmt: skip
        assert found >= best - 1e-9


def test_every_pattern_of_one_task_a_horizon_converges() -> None:
    x = np.array([1.0, 2, 4, 5, 7, 11])
    rates = np.array(list(itertools.product((0, 0.5, 1), repeat=6)))
    fit = firth_logistic(x, np.ones(6), rates)
    assert fit.converged.all()
    p = 1 / (1 + np.exp(-(fit.intercept[:, None] + fit.slope[:, None] * x)))
    # the first component of the score
    weights, design = p * (1 - p), np.stack([np.ones(6), x])
    information = np.einsum("fl,il,jl->fij", weights, design, design)
    leverage = weights * np.einsum("il,fij,jl->fl", design, np.linalg.inv(information), design)
    np.testing.assert_allclose((rates - p + leverage * (0.5 - p)).sum(axis=1), 0, atol=1e-6)


@pytest.mark.parametrize(
    ("horizons", "expected"), [([2, 64], 128), ([1, 128], 128), ([1, 2], 2), ([3, 700], 2100), ([1, 10**6], 10**6)]
)
def test_two_tasks_cross_half_way_between_them(horizons: list[float], expected: float) -> None:
    fit = fit_horizon(horizons, [1, 0])
    assert (fit.status, fit.reason) == ("inside", None)
    assert fit.steps == pytest.approx(expected**0.5, rel=1e-6)
    # one task at each end counts as (r + 1/2) / 2: odds of 3 and 1/3
    assert fit.slope == pytest.approx(-2 * np.log(3) / np.log2(horizons[1] / horizons[0]), rel=1e-6)


def test_a_symmetric_fall_crosses_in_the_middle() -> None:
    for num in (1, 2, 30):
        fit = fit_horizon(np.repeat([2, 4, 16, 32], num), np.repeat([1, 0.7, 0.3, 0], num), num_resamples=20)
        assert fit.steps == pytest.approx(8, rel=1e-6)


def test_longer_tasks_move_the_length_in_proportion() -> None:
    horizons, success = np.repeat([2, 5, 9, 40], 6), np.repeat([1, 0.9, 0.5, 0], 6)
    plain = fit_horizon(horizons, success)
    for factor in (0.5, 3, 1000):
        moved = fit_horizon(factor * horizons, success)
        for name in ("steps", "low", "high"):
            assert getattr(moved, name) == pytest.approx(factor * getattr(plain, name), rel=1e-6)
        assert moved.slope == pytest.approx(plain.slope, rel=1e-6)


def test_turning_success_and_horizons_round_turns_the_length_round() -> None:
    horizons, success = np.array([1, 3, 3, 10, 50]), np.array([1, 0.8, 1, 0.4, 0])
    steps = fit_horizon(horizons, success).steps
    assert fit_horizon(100 / horizons, 1 - success).steps == pytest.approx(100 / steps, rel=1e-6)


def test_the_square_of_all_horizons_squares_the_length() -> None:
    horizons, success = np.array([2, 3, 8, 10, 60]), np.array([1, 0.8, 1, 0.4, 0])
    steps = fit_horizon(horizons, success).steps
    assert fit_horizon(horizons**2, success).steps == pytest.approx(steps**2, rel=1e-6)


def test_a_fit_that_does_not_converge_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    x, rates = np.array([1.0, 3, 6]), np.array([[1, 1, 0.0]])
    assert not firth_logistic(x, np.ones(3), rates, num_iterations=1).converged[0]
    monkeypatch.setattr(horizon, "firth_logistic", lambda *data: firth_logistic(*data, num_iterations=1))
    fit = fit_horizon([2, 8, 64], [1, 1, 0])
    assert (fit.status, fit.reason, fit.steps, fit.slope) == ("unknown", "no convergence", None, None)


def test_many_tasks_and_extreme_rates_converge() -> None:
    x = np.arange(1.0, 11)
    falls = [(x < cut).astype(float) for cut in range(2, 11)]
    for num in (1.0, 30.0, 1e4):
        assert firth_logistic(x, np.full(10, num), np.array(falls)).converged.all()
