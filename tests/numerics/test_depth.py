"""Bins of the context, and what they hold."""

import math

import numpy as np
import pytest

from trm_agent.numerics.depth import borders, by_depth, over_all
from trm_agent.numerics.sampled import Sampled


def sampled(depths: np.ndarray, differences: np.ndarray) -> Sampled:
    """Tokens of a probability of one half."""
    return Sampled(depths, np.full(len(depths), -math.log(2)), differences)


def test_bins_double_from_512_on_until_they_hold_the_context():
    assert list(borders(1)) == [(0, 512)]
    assert list(borders(512)) == [(0, 512)]
    assert list(borders(513)) == [(0, 512), (512, 1024)]
    assert list(borders(8192))[-2:] == [(2048, 4096), (4096, 8192)]


def test_a_token_is_in_the_bin_of_the_tokens_before_it():
    # 511 tokens before the 512th token: the first bin; 512 before the next one: the second; nothing from 1024 to 2047
    depths = np.array([0, 511, 512, 1023, 2048])
    found = by_depth(sampled(depths, np.zeros(5)))
    assert [(each.start, each.stop, each.tokens) for each in found] == [(0, 512, 2), (512, 1024, 2), (2048, 4096, 1)]
    assert [each.depth for each in found] == [255.5, 767.5, 2048.0]


def test_a_bin_holds_mean_largest_kl_and_shares():
    d = [0.2, -0.05, 0.001, 0.0]
    (found,) = by_depth(sampled(np.arange(4), np.array(d)))
    assert found.mean == pytest.approx((0.2 + 0.05 + 0.001) / 4)
    assert found.largest == pytest.approx(0.2)
    # tokens come from the engine, so that e^d is trainer over engine and e^d - 1 - d estimates KL(engine || trainer)
    assert found.kl == pytest.approx(sum(math.exp(each) - 1 - each for each in d) / 4)
    assert (found.over_small, found.over_large) == (0.5, 0.25)
    # over 1 - p = 1 / 2
    assert (found.num_telling, found.logits) == (4, pytest.approx(2 * found.mean))


def test_the_estimate_is_the_kl_where_tokens_come_from_the_engine():
    engine, trainer = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.4, 0.2])
    tokens = np.repeat(np.arange(3), (500, 300, 200))
    whole = over_all(sampled(np.arange(1000), np.log(trainer / engine)[tokens]))
    assert whole.kl == pytest.approx(float((engine * np.log(engine / trainer)).sum()))


def test_the_kl_of_differences_in_float32_is_not_lost_to_rounding():
    # d^2 / 2 = 5e-15; 1 + d alone would keep four digits of d
    (found,) = by_depth(sampled(np.arange(2), np.array([1e-7, -1e-7])))
    assert found.kl == pytest.approx(5e-15, rel=1e-3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_difference_that_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match="1 log-probs of one side or the other are not finite"):
        by_depth(sampled(np.arange(2), np.array([0.0, value])))
