"""How far logits are apart, and where that begins: on made-up distributions, whose logits are disturbed."""

from dataclasses import replace

import numpy as np
import pytest

from trm_agent.numerics.depth import by_depth, over_all
from trm_agent.numerics.disturbance import DEVIATIONS_ANYWHERE, STEP, WINDOW, beginning, disturbance, rank_deviations
from trm_agent.numerics.sampled import Sampled, joined
from trm_agent.numerics.verdict import Verdict, verdict

from .made_up import NOISE, behind, episode

BORDERS = (512, 1024, 2048)


def judged(*episodes: Sampled) -> Verdict:
    return verdict(episodes, over_all(joined(episodes)), is_float32=False)


def test_it_is_the_error_of_logits_whatever_the_certainty():
    for certainty in (1.0, 3.0, 6.0):
        _, sizes = disturbance(episode(0, spread=lambda depths, size=certainty: np.full(len(depths), size)))
        # the mean of |error| is sqrt(2 / pi) = 0.8 of its size; one other likely token adds up to sqrt(2)
        assert 0.75 * NOISE < sizes.mean() < 0.8 * 1.45 * NOISE


def test_tokens_that_the_engine_was_sure_of_tell_nothing():
    # p = 0.99, 0.97 and 0.5
    log_probs = np.log([0.99, 0.97, 0.5])
    depths, sizes = disturbance(Sampled(np.array([7, 8, 9]), log_probs, np.array([0.1, -0.003, 0.05])))
    assert depths.tolist() == [8, 9]
    assert sizes == pytest.approx([0.1, 0.1])


def test_a_kl_that_grows_by_the_uncertainty_of_tokens_alone_is_flat():
    # from sure to unsure over the context
    episodes = [episode(seed, spread=lambda depths: 8.0 - 7.0 * depths / 2400) for seed in range(4)]
    found = judged(*episodes)
    assert found.slope > 0.2 + 3 * found.slope_error
    assert abs(found.logits_slope) < 0.2
    assert (found.kind, found.is_healthy) == ("flat", True)


def test_errors_that_grow_are_growth():
    # a KL that grows as the square root of depth
    found = judged(*(episode(seed, noise=lambda depths: 0.01 * (1 + depths) ** 0.25) for seed in range(4)))
    assert found.kind == "growing"
    assert found.logits_slope == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("border", BORDERS)
def test_what_disturbs_the_tokens_behind_a_border_alone_is_named(border):
    # thrice the noise in 32 of 2,400 tokens: the bin's KL rises by a tenth
    episodes = [episode(seed, noise=behind(border, 3)) for seed in range(4)]
    bins = by_depth(joined(episodes))
    assert bins[-1].kl < 2 * bins[0].kl
    found = judged(*episodes)
    assert (found.kind, found.starts_at, found.is_healthy) == ("jumps", border, False)
    assert found.ratio == pytest.approx(3, abs=0.8)


def test_what_disturbs_the_first_tokens_behind_a_border_alone_is_named():
    # thrice the noise in 8 of the window's 32 tokens: a mean of 1.5 times in the window, where 2 are asked for
    episodes = [episode(seed, 700, noise=behind(512, 3, 8)) for seed in range(16)]
    found = judged(*episodes)
    assert (found.kind, found.starts_at) == ("jumps", 512)
    assert found.ratio == pytest.approx(3, abs=0.8)
    # in the middle of a bin the place is not known to the token
    assert beginning(joined(episodes), ()) is None


@pytest.mark.parametrize("depth", [700, 1500, 2300])
def test_what_begins_inside_a_bin_is_named_to_a_window(depth):
    found = judged(*(episode(seed, noise=behind(depth, 3)) for seed in range(4)))
    assert (found.kind, found.is_healthy) == ("jumps", False)
    assert abs(found.starts_at - depth) <= WINDOW
    assert found.starts_at % STEP == 0


def test_what_lasts_from_inside_a_bin_on_is_named_by_its_depth_and_not_by_the_bin():
    # twelve times the errors in a third of the second bin's tokens, a mean of 5 times, and in all of the third's
    episodes = [episode(seed, noise=lambda depths: np.where(depths >= 850, 12, 1) * NOISE) for seed in range(4)]
    found = judged(*episodes)
    assert found.kind == "jumps"
    assert abs(found.starts_at - 850) <= WINDOW
    # the bins tell it too
    assert found.ratio is None


def test_between_borders_a_window_has_to_stick_out_farther():
    # 200 tokens evenly between 0 and 1 in a mixed order, then 20, of which 5 are at 0.1 and the others at 1.6: ranks 23
    # and 213 of 220 on average, a mean of 165.5 against 110.5, over sqrt(200 * 221 / (12 * 20)) = 13.57
    before = (np.arange(200) * 77 % 200 + 0.5) / 200
    sizes = np.concatenate([before, np.where(np.arange(20) % 4 == 0, 0.1, 1.6)])
    tokens = Sampled(400 + np.arange(220), np.full(220, np.log(0.5)), sizes / 2)
    found = beginning(tokens, (600,))
    assert found is not None
    assert (found.depth, found.deviations) == (600, pytest.approx(55 / 13.57, rel=1e-3))
    assert 3.5 < found.deviations < DEVIATIONS_ANYWHERE
    # the mean of the 20 is 1.225, of the 200 it is 0.5
    assert found.ratio == pytest.approx(2.45)
    assert beginning(tokens, ()) is None


def test_of_a_hundred_healthy_engines_none_jumps():
    # two episodes have too few tokens right behind a border
    for number in (2, 4):
        for seed in range(50):
            episodes = [episode(1000 * seed + each, 1100) for each in range(number)]
            assert beginning(joined(episodes), (512, 1024)) is None


def test_too_few_tokens_behind_a_border_tell_nothing():
    plain = episode(0)
    short = plain.at(plain.depths < 520)
    far = replace(short, differences=np.where(short.depths >= 512, 10.0, 1.0) * short.differences)
    assert beginning(far, BORDERS) is None


def test_where_log_probs_were_equal_before_a_border_any_difference_behind_it_is_one():
    plain = episode(0)
    found = beginning(
        Sampled(plain.depths, plain.log_probs, np.where(plain.depths < 512, 0.0, plain.differences)), BORDERS
    )
    assert found is not None
    assert (found.depth, found.ratio) == (512, np.inf)
    assert beginning(Sampled(plain.depths, plain.log_probs, 0.0 * plain.differences), BORDERS) is None


def test_ranks_are_those_of_mann_and_whitney():
    # ranks 3 and 4 of 1 to 4: a mean of 3.5 against 2.5, and a deviation of sqrt(2 * 5 / (12 * 2)) = 0.645
    assert rank_deviations(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == pytest.approx(1 / 0.6455, rel=1e-3)
    # ties share their ranks
    assert rank_deviations(np.ones(5), np.ones(50)) == pytest.approx(0)
