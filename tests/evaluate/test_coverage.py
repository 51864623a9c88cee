"""The 95 % intervals against simulated tasks with known success rates, in settings fixed before any was looked at.

Some of the sizes of `benchmarks.coverage`, which has them all; with one seed, so that the same evaluations come again.
"""

import numpy as np
import pytest

from benchmarks.coverage import (
    BANDS,
    LEAST,
    RARE,
    STUDIES,
    Draw,
    Result,
    many_horizons,
    measure,
    mixture,
    one_horizon,
    passes,
    two_checkpoints,
    two_mixtures,
)

pytestmark = pytest.mark.slow
RATES, HORIZONS, PAIRS, SINGLE, IMPOSSIBLE, SOLVED, _, PASSES, RARE_PAIRS = (
    settings for _, settings in STUDIES.values()
)


def result(draw: Draw, setting: tuple, repeats: int) -> Result:
    return measure(draw, setting, repeats, np.random.default_rng(0))


def falls_short(found: Result) -> bool:
    """Whether the coverage is below 93 % by more than so few evaluations may show by chance."""
    return found.ours < LEAST - 2 * found.error


def some(settings: list[tuple], every: int) -> list[tuple]:
    return settings[::every]


@pytest.mark.parametrize(
    ("draw", "setting"),
    [
        *((one_horizon, setting) for setting in some(RATES, 11)),
        *((many_horizons, setting) for setting in some(HORIZONS, 7)),
        *((one_horizon, setting) for setting in some(SINGLE, 11)),
        *((mixture, setting) for setting in some(IMPOSSIBLE, 7)),
        *((mixture, setting) for setting in some(SOLVED, 7)),
        *((passes, setting) for setting in some(PASSES, 13)),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_the_interval_holds_the_true_rate(draw: Draw, setting: tuple) -> None:
    # 1,000 evaluations: the standard error of the coverage is 0.8 %
    found = result(draw, setting, 1000)
    assert not falls_short(found)
    if "width" in found.fails:
        assert found.noted > 0.5


@pytest.mark.parametrize("samples", [16, 64])
def test_a_twentieth_of_impossible_tasks_is_allowed_for(samples: int) -> None:
    # a third of the evaluations of 20 tasks has none of them
    found = result(mixture, (20, samples, 0.05, 0.9), 1500)
    assert found.ours >= 0.93 > found.before
    assert found.textbook < 0.8


@pytest.mark.parametrize("tasks", [25, 26, 27])
def test_a_tenth_of_impossible_tasks_of_which_none_was_seen_is_allowed_for(tasks: int) -> None:
    # 7.2 to 5.8 % of the evaluations have none; 6,000 evaluations: the standard error is 0.3 %
    found = result(mixture, (tasks, 64, 0.1, 0.9), 6000)
    assert found.ours >= 0.93
    assert found.width < 1.15


def test_a_pass_is_no_matter_of_the_standard_error() -> None:
    found = Result(ours=0.929, before=0.95, textbook=0.95, width=1.0, noted=0.0, size=np.nan, repeats=100)
    assert found.fails == "coverage"
    assert found.is_close
    assert not found._replace(repeats=10**6).is_close
    assert found._replace(ours=0.93).fails == ""
    assert found._replace(ours=0.93, width=1.51).fails == "width"


@pytest.mark.parametrize("setting", some(PAIRS, 7), ids=str)
def test_the_interval_of_a_comparison_holds_the_true_difference(setting: tuple) -> None:
    found = result(two_checkpoints, setting, 300)
    assert not falls_short(found)
    assert "width" not in found.fails


@pytest.mark.parametrize("setting", [s for s in RARE_PAIRS if s[0] == 20 and s[2] == 0.05], ids=str)
def test_a_comparison_that_rare_tasks_can_spoil_is_marked(setting: tuple) -> None:
    found = result(two_mixtures, setting, 200)
    assert "size" not in found.fails
    assert "width" not in found.fails
    if falls_short(found):
        assert found.noted > 0.5


@pytest.mark.parametrize("samples", [1, 16])
def test_the_truth_of_a_simulated_evaluation_is_the_mean_of_what_it_draws(samples: int) -> None:
    rng = np.random.default_rng(1)
    draws = [(one_horizon, (50_000, samples, band)) for band in BANDS]
    draws += [(many_horizons, (12_500, 4, samples)), (mixture, (50_000, samples, 0.1, 0.5))]
    draws += [(passes, (50_000, 16, 4, 0.1, figure)) for figure in ("at", "hat")]
    draws += [(two_checkpoints, (50_000, samples, band)) for band in BANDS]
    draws += [(two_mixtures, (50_000, samples, 0.1, kind)) for kind in RARE]
    for draw, setting in draws:
        seen = draw(rng, 4, *setting)
        values = seen.values if seen.second is None else seen.second - seen.values
        np.testing.assert_allclose(values.mean(axis=1), seen.truth, atol=0.01)
