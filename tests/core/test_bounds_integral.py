"""The closed form of the Pinsker-marginal bound against its sum."""

import math

import pytest

from trm_agent.core.bounds import (
    pinsker,
    pinsker_marginal_bound,
    pinsker_marginal_integral,
)


def test_the_integral_is_the_sum_from_above_and_close_to_it():
    for horizon in (1, 2, 10, 1000, 10**6):
        for delta in (0.0, 1e-8, 1e-4, 0.05, 3.0):
            summed = pinsker_marginal_bound(horizon, pinsker(delta), delta).item()
            integral = pinsker_marginal_integral(horizon, pinsker(delta), delta).item()
            # a sum of increasing terms, each at most 1, misses at most its last term
            assert summed <= integral * (1 + 1e-12)
            assert integral <= summed + 4 * pinsker(delta).item() + 1e-9


@pytest.mark.parametrize("horizon", [0, 1, 2, 4096])
def test_the_integral_holds_at_an_infinite_divergence(horizon):
    # every term is at its cap of 1
    assert pinsker_marginal_integral(horizon, 1.0, math.inf).item() == 4 * horizon
    assert pinsker_marginal_integral(horizon, 1.0, 1e308).item() == 4 * horizon
    assert pinsker_marginal_integral(horizon, 0.0, math.inf).item() == 0
    assert pinsker_marginal_integral(horizon, 0.5, 0.0).item() == 0
