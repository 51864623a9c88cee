"""Verdicts over made mismatches: growth, jumps, rounding, level."""

from dataclasses import replace

import numpy as np
import pytest

from trm_agent.numerics.depth import Bin, over_all
from trm_agent.numerics.disturbance import WINDOW
from trm_agent.numerics.sampled import Sampled, joined
from trm_agent.numerics.verdict import Verdict, jump_of, slope_of, verdict

LENGTH = 8192


def episode(seed: int, power: float, size: float = 1e-2, jump: int | None = None) -> Sampled:
    """Every second token of a context, whose KL grows with a power of its depth, and may jump thousandfold."""
    depths = np.arange(100, LENGTH, 2)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], len(depths))
    differences = signs * size * (depths / LENGTH) ** (power / 2)
    if jump is not None:
        differences = np.where(depths >= jump, 30 * differences, differences)
    return Sampled(depths, np.full(len(depths), -1.0), differences)


def judged(*episodes: Sampled, is_float32: bool = False) -> Verdict:
    return verdict(episodes, over_all(joined(episodes)), is_float32=is_float32)


def some_bin(start: int, tokens: int, depth: float, kl: float) -> Bin:
    return Bin(start, 2 * start or 512, tokens, depth, kl**0.5, 0.0, kl, 0.0, 0.0, tokens, kl**0.5)


def test_the_slope_is_that_of_a_power_law():
    # KL = 2e-6 depth^0.7 in each bin
    bins = [
        some_bin(start, tokens, depth, 2e-6 * depth**0.7)
        for start, tokens, depth in ((0, 100, 300.0), (512, 900, 700.0), (1024, 300, 1500.0))
    ]
    assert slope_of(bins) == pytest.approx(0.7)
    assert slope_of(bins[:1]) is None


def test_bins_count_by_their_tokens():
    # log-log: (0, 0), (1, 0), (2, 1): 0.5 for equal weights, and nearly the first two's 0 where the last has few tokens
    points = [(0, 1.0, 1.0), (512, np.e, 1.0), (1024, np.e**2, np.e)]
    assert slope_of([some_bin(start, 100, depth, kl) for start, depth, kl in points]) == pytest.approx(0.5)
    few = [some_bin(start, 1 if start == 1024 else 10**6, depth, kl) for start, depth, kl in points]
    assert slope_of(few) == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(("power", "kind"), [(0.0, "flat"), (0.1, "flat"), (0.35, "growing"), (1.0, "growing")])
def test_a_mismatch_grows_from_a_slope_of_one_fifth_on(power, kind):
    found = judged(*(episode(seed, power) for seed in range(4)))
    assert found.kind == kind
    # bins have a width, over which the mean of a power is not the power of the mean
    assert found.slope == pytest.approx(power, abs=0.02)
    assert found.slope_error < 0.01
    assert found.is_healthy == (kind == "flat")
    assert ("number format of attention" in found.first_check) == (kind == "growing")


@pytest.mark.parametrize("depth", [512, 1024, 2048, 4096])
def test_a_jump_is_named_by_the_bin_where_it_starts(depth):
    found = judged(episode(0, 0.1, jump=depth))
    assert (found.kind, found.starts_at, found.is_healthy) == ("jumps", depth, False)
    assert "position ids" in found.first_check


def test_a_single_bin_that_sticks_out_is_no_jump_of_bins():
    assert jump_of([some_bin(0, 100, 200.0, 1e-6), some_bin(512, 100, 700.0, 9e-6)]) is None
    high = some_bin(1024, 100, 1500.0, 1e-4)
    bins = [some_bin(0, 100, 200.0, 1e-6), high, some_bin(2048, 100, 3000.0, 1e-6)]
    assert jump_of(bins) is None
    assert jump_of(bins[:2]) is high


def test_what_sticks_out_from_inside_a_bin_on_is_named_to_a_window():
    plain = episode(0, 0.0)
    inside = (plain.depths >= 1100) & (plain.depths < 2048)
    found = judged(replace(plain, differences=np.where(inside, 30 * plain.differences, plain.differences)))
    assert found.kind == "jumps"
    assert abs(found.starts_at - 1100) <= WINDOW


def test_rounding_alone_has_no_growth_to_speak_of():
    # KL = (1e-5)^2 / 2 at the end: below 1e-9 everywhere, whatever the slope
    found = judged(*(episode(seed, 1.0, size=1e-5) for seed in range(3)), is_float32=True)
    assert (found.kind, found.is_healthy, found.first_check) == ("rounding", True, "nothing")
    assert found.slope == pytest.approx(1.0, abs=0.05)


def test_the_limits_are_those_of_the_number_formats():
    # |d| = 1e-3 everywhere: a KL of 5e-7; |d| = 0.05: a KL of 1.25e-3
    small, large = episode(0, 0.0, size=1e-3), episode(0, 0.0, size=0.05)
    assert judged(small).is_healthy
    found = judged(small, is_float32=True)
    assert (found.kind, found.is_high, found.is_healthy) == ("flat", True, False)
    assert found.first_check.startswith("what every token passes")
    assert judged(large).is_high
    assert "float32 on both sides" in judged(large).first_check


def test_one_bin_tells_no_growth():
    found = judged(episode(0, 0.0).at(np.arange(200)))
    assert (found.kind, found.slope, found.is_healthy) == ("too short", None, False)
    assert "more --tokens" in found.first_check


def test_bins_of_a_few_tokens_are_left_out_of_the_verdict():
    plain = episode(0, 0.0)
    spoilt = replace(plain, differences=np.where(plain.depths >= 4096, 1.0, plain.differences))
    # 51 tokens, at most one of them in a window
    few = (plain.depths >= 4096) & (plain.depths % 80 == 0)
    found = judged(spoilt.at((plain.depths < 4096) | few))
    assert found.kind == "flat"
    assert found.slope == pytest.approx(0.0, abs=0.01)


def test_the_slopes_error_is_that_of_the_jackknife_over_episodes():
    powers = (0.0, 0.2, 0.4)
    episodes = [episode(seed, power) for seed, power in enumerate(powers)]
    without = [judged(*(each for number, each in enumerate(episodes) if number != left)).slope for left in range(3)]
    # (n - 1) / n times the sum of squares around their mean
    mean = sum(without) / 3
    expected = (2 / 3 * sum((each - mean) ** 2 for each in without)) ** 0.5
    assert judged(*episodes).slope_error == pytest.approx(expected)
    assert expected > 0.05
    assert judged(*episodes[:2]).slope_error is None
