"""The rules of benchmarks/long_horizon.py: what each may look at and what it keeps."""

import numpy as np
import pytest

from benchmarks.long_horizon import MAX_KL, RULES, Setting, Update, play, probability_of, train

SMALL = Setting(horizon=30, flips=0.05, rate=0.02, updates=2, seeds=2, first_seed=0)


def update(seed: int = 0, share: float | None = None) -> Update:
    rng = np.random.default_rng(seed)
    kl = rng.exponential(MAX_KL / 3, (40, 8))
    return Update(kl, rng.lognormal(0, 0.3, (40, 8)), rng.normal(size=(40, 1)), np.random.default_rng(1), share)


def test_permuted_keeps_as_many_of_each_sign_and_inverse_keeps_the_rest():
    given = update()
    kept, inside, positive = RULES["permuted max"](given), given.inside, given.advantages > 0
    assert 0 < inside.sum() < len(inside)
    assert (kept != inside).any()
    for sign in (positive, ~positive):
        assert kept[sign].sum() == inside[sign].sum()
    assert (RULES["inverse of max"](given) == ~inside).all()


def test_stop_keeps_the_prefix_before_the_first_token_outside():
    given = update()
    kept = RULES["stop"](given)
    for row, values in enumerate(given.kl):
        first = next((t for t, value in enumerate(values) if value > MAX_KL), len(values))
        assert kept[row].tolist() == [t < first for t in range(len(values))]
    directional = RULES["directional stop"](given)
    assert (directional >= kept).all()
    assert directional.sum() > kept.sum()


def test_a_coin_repeats_the_acceptance_of_the_paired_run():
    assert RULES["coin of max"](update(share=0.0)).sum() == 0
    assert RULES["coin of max"](update(share=1.0)).all()
    runs = play(["coin of max"], SMALL)
    assert list(runs) == ["max", "coin of max"]
    shares = [np.mean([run.kept for run in runs[rule]]) for rule in runs]
    # 2 seeds, 80 updates, 32 sequences: a standard error of 0.7 %
    assert shares[1] == pytest.approx(shares[0], abs=0.03)
    assert 0.05 < shares[0] < 0.95


def test_a_run_repeats_and_learns_without_a_mask():
    first, again = (train("none", SMALL, 0, None) for _ in range(2))
    assert first == again
    assert first.success[-1] > first.success[0] + 0.1


def test_the_probability_of_success_is_a_binomial_tail():
    # at least 2 of 3 with 1/4: 3 * 1/16 * 3/4 + 1/64 = 10/64
    assert probability_of(0.25, 3, 2) == pytest.approx(10 / 64)
    assert probability_of(0.25, 3, 0) == pytest.approx(1.0)
