"""The verdict on bins of depth, of groups together: its slope, its error, and what tells nothing."""

import numpy as np
import pytest

from trm_agent.trust_region.growth import Growth, growth, jackknife_error, slopes

DEPTHS = np.array([50.0, 100.0, 200.0, 400.0])


def judged(
    power: float, level: float = 1e-4, counts: tuple[int, ...] = (500, 500, 500, 500), groups: int = 4
) -> Growth:
    """Groups of equal counts whose KL is a power of the depth, each with a factor of its own."""
    tokens = np.tile(np.array(counts, dtype=float), (groups, 1)) / groups
    factors = np.linspace(0.9, 1.1, groups)[:, None]
    return growth(tokens, tokens * DEPTHS, tokens * factors * level * (DEPTHS / 100) ** power)


@pytest.mark.parametrize(
    ("power", "kind"), [(-0.5, "flat"), (0.0, "flat"), (0.19, "flat"), (0.21, "growing"), (1.5, "growing")]
)
def test_the_slope_is_the_power_and_a_fifth_is_the_border(power, kind):
    found = judged(power)
    assert found.kind == kind
    assert found.slope == pytest.approx(power, abs=1e-9)
    # factors of whole groups change the level alone
    assert found.slope_error == pytest.approx(0.0, abs=1e-9)
    assert found.fitted() == pytest.approx(found.kl)
    assert kind in found.told()


def test_the_error_is_the_jackknifes_over_groups():
    tokens = np.full((3, 4), 200.0)
    kl = np.stack([1e-4 * (DEPTHS / 100) ** power for power in (0.0, 0.5, 1.0)])
    found = growth(tokens, tokens * DEPTHS, tokens * kl)
    left = [[1, 2], [0, 2], [0, 1]]
    without = [growth(tokens[rows], tokens[rows] * DEPTHS, (tokens * kl)[rows]).slope for rows in left]
    mean = sum(without) / 3
    assert found.slope_error == pytest.approx((2 / 3 * sum((each - mean) ** 2 for each in without)) ** 0.5)
    assert found.slope_error > 0.1
    assert jackknife_error(without[:2]) is None
    assert jackknife_error([*without, float("nan")]) is None


def test_rounding_and_too_little_are_said_to_be_that():
    assert judged(1.0, level=1e-12).kind == "rounding"
    # 99 tokens a bin, but for one
    short = judged(1.0, counts=(99, 99, 500, 99))
    assert (short.kind, short.slope, short.fitted()) == ("too short", None, None)
    assert len(short.kl) == 1
    nothing = judged(1.0, counts=(0, 0, 0, 0))
    assert nothing.kind == "too short"


def test_a_bin_of_a_few_tokens_is_left_out_whatever_it_holds():
    tokens = np.array([[300.0, 300.0, 300.0, 99.0]])
    kl = np.array([[1e-4, 1e-4, 1e-4, 10.0]])
    assert growth(tokens, tokens * DEPTHS, tokens * kl).slope == pytest.approx(0.0, abs=1e-12)


def test_slopes_of_many_fits_at_once_are_those_of_each():
    generator = np.random.default_rng(0)
    tokens, kl = generator.integers(0, 900, (6, 4)).astype(float), generator.random((6, 4)) + 0.1
    depth = np.tile(DEPTHS, (6, 1))
    tokens[0] = [0, 0, 700, 0]
    kl[1, 2] = 0.0
    together = slopes(tokens, depth, kl)
    assert np.isnan(together[:2]).all()
    for row in range(2, 6):
        used = tokens[row] > 0
        # NumPy's weights multiply the residuals, not their squares
        expected = np.polyfit(np.log(depth[row, used]), np.log(kl[row, used]), 1, w=np.sqrt(tokens[row, used]))[0]
        assert together[row] == pytest.approx(expected, rel=1e-9)
