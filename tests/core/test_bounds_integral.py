"""The closed form of the Pinsker-marginal bound against its sum; and no corner of the ranges is NaN."""

import itertools
import math

import pytest
import torch

from trm_agent.core.bounds import (
    error_bounds,
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


def test_no_corner_of_the_ranges_is_nan():
    kls, tvs = (0.0, 1e-300, 0.1, 1e308, math.inf), (0.0, 0.3, 1.0)
    corners = torch.tensor(list(itertools.product((0, 1, 2, 5), kls, kls, tvs, tvs)), dtype=torch.float64)
    horizon, max_kl, seq_kl, max_tv, seq_tv = corners.unbind(-1)
    for by_tv in ({}, {"max_tv": max_tv}, {"seq_tv": seq_tv}, {"max_tv": max_tv, "seq_tv": seq_tv}):
        for mean_tv in (None, torch.zeros(5), torch.ones(5)):
            bounds = error_bounds(horizon, max_kl, seq_kl, mean_tv=mean_tv, **by_tv)
            for name, value in vars(bounds).items():
                assert (value >= 0).all(), (name, corners[~(value >= 0)])
