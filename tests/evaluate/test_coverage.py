"""The 95 % intervals against simulated tasks with known success rates, in settings fixed before any was looked at.

Some of the sizes of `benchmarks.coverage`, which has them all; with one seed, so that the same evaluations come again.
"""

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.coverage import BANDS, STUDIES, Evaluation, coverage, many_horizons, one_horizon, two_checkpoints

pytestmark = pytest.mark.slow
RATES, HORIZONS, PAIRS, _ = (settings for _, settings in STUDIES.values())


def covered(draw: Callable[..., Evaluation], setting: tuple, repeats: int) -> float:
    return coverage(draw, setting, repeats, np.random.default_rng(0))[0]


@pytest.mark.parametrize("setting", [setting for setting in RATES if setting[0] in (20, 64, 200)], ids=str)
def test_the_interval_holds_the_true_rate_in_95_of_100_evaluations(setting: tuple) -> None:
    # 2,500 evaluations: the standard error of the coverage is 0.4 %
    assert 0.93 <= covered(one_horizon, setting, 2500) <= 0.97


@pytest.mark.parametrize("setting", [setting for setting in HORIZONS if setting[0] in (5, 20, 100)], ids=str)
def test_the_interval_over_several_horizons_holds_the_true_rate(setting: tuple) -> None:
    assert 0.93 <= covered(many_horizons, setting, 2500) <= 0.97


@pytest.mark.parametrize("setting", [setting for setting in PAIRS if setting[0] in (20, 64)], ids=str)
def test_the_interval_of_a_comparison_holds_the_true_difference(setting: tuple) -> None:
    assert 0.93 <= covered(two_checkpoints, setting, 2500) <= 0.97


@pytest.mark.parametrize("samples", [1, 16])
def test_the_truth_of_a_simulated_evaluation_is_the_mean_of_what_it_draws(samples: int) -> None:
    rng = np.random.default_rng(1)
    for band in BANDS:
        for seen in (
            one_horizon(rng, 200_000, samples, band),
            many_horizons(rng, 50_000, 4, samples),
            two_checkpoints(rng, 200_000, samples, band),
        ):
            values = seen.values if seen.second is None else seen.second - seen.values
            assert values.mean() == pytest.approx(seen.truth, abs=0.005)
