"""Quantiles of Dirichlet means against exact ones and against draws."""

import numpy as np
import pytest

from trm_agent.evaluate.statistics.dirichlet import quantile

Z = 1.959963984540054


@pytest.mark.parametrize("num", [2, 20, 400])
def test_all_at_an_end_give_the_quantile_of_a_beta_distribution(num: int) -> None:
    # with one task at 1 the mean is Beta(1, n), whose quantile is 1 - (1 - q)^(1 / n)
    values, weights = np.append(np.zeros(num), 1.0)[None], np.ones((1, num + 1))
    found = quantile(values, weights, np.zeros(1), np.ones(1), Z)
    np.testing.assert_allclose(found, 1 - 0.025 ** (1 / num), rtol=0.01)


@pytest.mark.parametrize("z", [-Z, Z])
def test_quantiles_are_those_of_draws(z: float) -> None:
    rng = np.random.default_rng(0)
    values = np.append(rng.binomial(4, rng.beta(0.5, 0.5, 20)) / 4, 0.0)
    weights = np.append(np.ones(20), 0.4)
    drawn = rng.gamma(weights, size=(100_000, 21))
    expected = np.quantile(drawn @ values / drawn.sum(axis=1), 0.025 if z < 0 else 0.975)
    ends = (np.zeros(1), np.full(1, values.mean())) if z < 0 else (np.full(1, values.mean()), np.ones(1))
    np.testing.assert_allclose(quantile(values[None], weights[None], *ends, z), expected, atol=0.003)


def test_sets_together_give_what_they_give_alone_and_counts_what_repeats_give() -> None:
    rng = np.random.default_rng(1)
    values = np.column_stack([rng.random((5, 30)), np.zeros(5)])
    weights = np.append(np.ones(30), 0.5) * np.ones((5, 1))
    together = quantile(values, weights, np.zeros(5), values.mean(axis=1) + 0.02, -Z)
    for row, shares, found in zip(values, weights, together, strict=True):
        alone = quantile(row[None], shares[None], np.zeros(1), np.full(1, row.mean() + 0.02), -Z)
        assert found == pytest.approx(alone[0], abs=1e-6)
    repeated = np.array([[0.2] * 12 + [0.7] * 5 + [0.0]])
    counted = np.array([[0.2, 0.7, 0.0]])
    one = quantile(repeated, np.ones((1, 18)), np.zeros(1), np.full(1, 0.3), -Z)
    other = quantile(counted, np.array([[12.0, 5, 1]]), np.zeros(1), np.full(1, 0.3), -Z)
    np.testing.assert_allclose(one, other, atol=1e-6)
