"""How far logits are apart, and where that begins: on made-up distributions, whose logits are disturbed."""

from dataclasses import replace

import numpy as np
import pytest

from trm_agent.numerics.depth import by_depth, over_all
from trm_agent.numerics.disturbance import WINDOW, beginning, disturbance, rank_deviations
from trm_agent.numerics.sampled import Sampled, joined
from trm_agent.numerics.verdict import Verdict, verdict

WORDS, NOISE = 32, 0.05
BORDERS = (512, 1024, 2048)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def steady(depths: np.ndarray) -> np.ndarray:
    return np.full(len(depths), NOISE)


def episode(seed: int, length: int = 2400, noise=steady, spread=lambda depths: np.full(len(depths), 3.0)) -> Sampled:
    """Two of three tokens of a context, drawn from logits; the trainer's have errors of a size by depth besides."""
    random = np.random.default_rng(seed)
    depths = np.flatnonzero(random.random(length) < 2 / 3)
    logits = random.normal(size=(len(depths), WORDS)) * spread(depths)[:, None]
    engine = log_softmax(logits)
    # the largest sum with Gumbel's noise is a draw
    drawn = (engine + random.gumbel(size=engine.shape)).argmax(axis=-1)
    trainer = log_softmax(logits + random.normal(size=logits.shape) * noise(depths)[:, None])
    rows = np.arange(len(depths))
    return Sampled(depths, engine[rows, drawn], trainer[rows, drawn] - engine[rows, drawn])


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
    def noise(depths):
        return np.where((depths >= border) & (depths < border + WINDOW), 3 * NOISE, NOISE)

    episodes = [episode(seed, noise=noise) for seed in range(4)]
    bins = by_depth(joined(episodes))
    assert bins[-1].kl < 2 * bins[0].kl
    found = judged(*episodes)
    assert (found.kind, found.starts_at, found.is_healthy) == ("jumps", border, False)
    assert found.ratio == pytest.approx(3, abs=0.8)


def test_of_a_hundred_healthy_engines_none_jumps():
    for seed in range(100):
        assert beginning(joined([episode(1000 * seed + number, 1100) for number in range(2)]), (512, 1024)) is None


def test_too_few_tokens_behind_a_border_tell_nothing():
    plain = episode(0)
    short = plain.at(plain.depths < 525)
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
