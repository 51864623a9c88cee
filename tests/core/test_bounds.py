import itertools
import math
import random
from dataclasses import asdict, fields

import pytest
import torch

from trm_agent.core import bounds as module
from trm_agent.core.bounds import (
    ErrorBounds,
    adaptive_bound,
    coupling_bound,
    error_bounds,
    pinsker,
    pinsker_marginal_bound,
    pinsker_marginal_integral,
    tail_weights,
)
from trm_agent.core.horizon import effective_horizon

NAMES = [field.name for field in fields(ErrorBounds)]
PARTS = [name for name in NAMES if name not in ("classical", "unified")]


def loops(horizon, delta, kl_seq, eps=None, tv_seq=None, mean_tv=None):
    """Every bound as a sum over t = 1..T, one term after the other, from the paper's table."""
    root = min(1.0, math.sqrt(delta / 2))
    classical = horizon * (horizon - 1) * delta if eps is None else 2 * horizon * (horizon - 1) * eps**2
    eps = root if eps is None else eps
    seq_root = min(1.0, math.sqrt(kl_seq / 2))
    tv_seq = seq_root if tv_seq is None else tv_seq
    before = [min(1.0, math.sqrt((t - 1) * delta / 2)) for t in range(1, horizon + 1)]
    after = [min(1.0, (horizon - t) * eps, math.sqrt((horizon - t) * delta / 2)) for t in range(1, horizon + 1)]
    terms = after if mean_tv is None else [mean * weight for mean, weight in zip(mean_tv, after, strict=True)]
    values = {
        "coupling": 4 * eps * math.fsum(min(1.0, (t - 1) * eps) for t in range(1, horizon + 1)),
        "pinsker_marginal_kl": 4 * root * math.fsum(before),
        "pinsker_marginal_tv": 4 * eps * math.fsum(before),
        "mixed_kl": 4 * horizon * root * seq_root,
        "mixed_tv": 4 * horizon * eps * tv_seq,
        "adaptive": 4 * math.fsum(terms) * (eps if mean_tv is None else 1.0),
    }
    return {"classical": classical, **values, "unified": min(values.values())}


def float64(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def as_floats(bounds: ErrorBounds) -> dict[str, float]:
    return {name: value.item() for name, value in asdict(bounds).items()}


def assert_equal_loops(bounds: ErrorBounds, expected: dict[str, float], rel: float = 1e-12) -> None:
    assert as_floats(bounds) == {name: pytest.approx(value, rel=rel, abs=1e-300) for name, value in expected.items()}


def random_arguments(rng: random.Random) -> dict[str, float]:
    """From nearly on policy to saturated, with the ends of every range."""
    delta = rng.choice([0.0, 10 ** rng.uniform(-9, 1), 10 ** rng.uniform(-4, -1)])
    eps = rng.choice([0.0, 1.0, 10 ** rng.uniform(-6, 0)])
    return {
        "horizon": rng.choice([1, 2, 63, 64, 65, 66, rng.randint(1, 400)]),
        "max_kl": delta,
        "seq_kl": 10 ** rng.uniform(-6, 1),
        "max_tv": eps,
        "seq_tv": rng.random(),
    }


def test_table_1_with_kl_only():
    bounds = error_bounds(4096, 1e-4, 0.01)
    # The paper prints 35.0 for 4/3 T^(3/2) delta = 34.953; the sum itself, which that exceeds, is 34.946.
    assert f"{pinsker_marginal_integral(4096, pinsker(1e-4), 1e-4).item():.1f}" == "35.0"
    assert pinsker_marginal_integral(4096, pinsker(1e-4), 1e-4).item() == pytest.approx(4 / 3 * 4096**1.5 * 1e-4)
    assert 34.953 * (1 - 3e-4) < bounds.pinsker_marginal_kl < 34.953
    printed = [f"{value:.1f}" for value in as_floats(bounds).values()]
    assert printed == ["1677.3", "113.8", "34.9", "34.9", "8.2", "8.2", "34.9", "8.2"]


def test_table_1_with_kl_and_tv():
    bounds = error_bounds(4096, 1e-4, 0.01, max_tv=5e-3, seq_tv=0.05)
    printed = [f"{value:.1f}" for value in as_floats(bounds).values()]
    assert printed == ["838.7", "79.9", "34.9", "24.7", "8.2", "4.1", "24.7", "4.1"]
    assert bounds.adaptive < bounds.pinsker_marginal_tv


def test_the_published_threshold_gives_a_bound_of_thousands():
    # delta = 0.05 at T = 4096, where most terms are capped at 1
    assert round(error_bounds(4096, 0.05, 1.0).pinsker_marginal_kl.item()) == 2582


@pytest.mark.slow
def test_every_bound_equals_the_loops():
    rng = random.Random(0)
    for _ in range(100):
        given = random_arguments(rng)
        expected = loops(*given.values())
        assert_equal_loops(error_bounds(**given), expected)
        kl_only = {name: given[name] for name in ("horizon", "max_kl", "seq_kl")}
        assert_equal_loops(error_bounds(**kl_only), loops(*kl_only.values()))
        mean_tv = [rng.random() ** 4 for _ in range(given["horizon"])]
        assert_equal_loops(error_bounds(**given, mean_tv=float64(mean_tv)), loops(*given.values(), mean_tv))


@pytest.mark.slow
def test_a_million_tokens_equal_the_loops():
    given = {"horizon": 10**6, "max_kl": 3e-6, "seq_kl": 0.3, "max_tv": 4e-7, "seq_tv": 0.2}
    mean_tv = [1e-7 * (1 + t % 7) for t in range(10**6)]
    # eps 4e-7 saturates nowhere and delta 3e-6 after 666666 tokens; rounding errors must not add up over the terms
    expected = loops(*given.values(), mean_tv)
    assert_equal_loops(error_bounds(**given, mean_tv=float64(mean_tv)), expected, rel=1e-12)
    closed_form = error_bounds(**given).adaptive.item()
    uniform = adaptive_bound(torch.full((10**6,), 4e-7, dtype=torch.float64), 10**6, max_kl=3e-6, max_tv=4e-7)
    assert closed_form == pytest.approx(uniform.item(), rel=1e-12)


def test_long_horizons_take_no_memory_per_token():
    # one float64 for each position of each sequence would be 800 GB
    horizon = torch.full((100_000,), 10**6)
    values = error_bounds(horizon, torch.linspace(0, 1, 100_000), 0.01)
    assert values.unified.shape == (100_000,)
    assert values.unified.isfinite().all()


def test_adaptive_kl_with_uniform_divergence_is_pinsker_marginal_kl():
    for horizon, delta in itertools.product([1, 7, 100], [0.0, 1e-6, 1e-2, 0.5, 3.0]):
        uniform = pinsker(delta).expand(horizon)
        adaptive = adaptive_bound(uniform, horizon, max_kl=delta)
        torch.testing.assert_close(adaptive, pinsker_marginal_bound(horizon, pinsker(delta), delta), rtol=1e-12, atol=0)


def test_adaptive_tv_with_uniform_divergence_is_coupling():
    for horizon, eps in itertools.product([1, 2, 7, 100], [0.0, 1e-6, 1e-2, 0.3, 1.0]):
        uniform = torch.full((horizon,), eps, dtype=torch.float64)
        adaptive = adaptive_bound(uniform, horizon, max_tv=eps)
        torch.testing.assert_close(adaptive, coupling_bound(horizon, eps), rtol=1e-12, atol=1e-15)


def test_what_is_ahead_weighs_and_not_what_is_behind():
    # T = 3, a difference at the first token only: 4 * 0.1 * min(1, 2 eps); at the last token only: no error at all.
    first, last = float64([[0.1, 0.0, 0.0], [0.0, 0.0, 0.1]])
    assert adaptive_bound(first, 3, max_tv=0.2).item() == pytest.approx(4 * 0.1 * 0.4)
    assert adaptive_bound(last, 3, max_tv=0.2).item() == 0.0


def test_routes_cross_where_the_paper_says():
    # delta / (2 eps^2) = 0.02 / (2 * 0.0025) = 4: up to four remaining tokens the linear route is the lower one.
    remaining = torch.arange(9).double()
    linear = tail_weights(remaining, max_tv=float64(0.05))
    root = tail_weights(remaining, max_kl=float64(0.02))
    assert (linear < root).tolist() == [False, True, True, True, False, False, False, False, False]
    torch.testing.assert_close(linear[4], root[4])


@pytest.mark.slow
def test_unified_is_the_least():
    rng, seen = random.Random(1), set()
    for _ in range(300):
        values = as_floats(error_bounds(**random_arguments(rng)))
        least = values["unified"]
        assert least == min(values[name] for name in PARTS) <= values["classical"] * (1 + 1e-12)
        seen |= {name for name in PARTS if values[name] == least > 0}
    assert len(seen) >= 4


@pytest.mark.slow
def test_bounds_grow_with_the_horizon_and_every_divergence():
    rng, grew = random.Random(2), set()
    for _ in range(60):
        given = random_arguments(rng)
        before = as_floats(error_bounds(**given))
        for name in given:
            larger = dict(given)
            larger[name] = given[name] + 1 if name == "horizon" else min(1.0, given[name] * 1.1 + 1e-3)
            if larger[name] <= given[name]:
                continue
            after = as_floats(error_bounds(**larger))
            assert all(after[bound] >= before[bound] * (1 - 1e-12) for bound in NAMES)
            grew |= {name for bound in PARTS if after[bound] > before[bound]}
    assert grew == set(given)


def test_a_batch_equals_one_by_one():
    rng = random.Random(3)
    rows = [random_arguments(rng) for _ in range(50)]
    batch = {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in rows[0]}
    width = max(row["horizon"] for row in rows)
    mean_tv = torch.rand(50, width, generator=torch.Generator().manual_seed(0)).double()
    padded = torch.where(torch.arange(width) < batch["horizon"].unsqueeze(-1), mean_tv, torch.nan)
    for extra in (None, padded, mean_tv[0]):
        together = error_bounds(**batch, mean_tv=extra)
        for index, row in enumerate(rows):
            alone = extra[index] if extra is padded else extra
            expected = as_floats(error_bounds(**row, mean_tv=alone))
            got = {name: getattr(together, name)[index].item() for name in NAMES}
            assert got == {name: pytest.approx(value, rel=1e-12, abs=1e-300) for name, value in expected.items()}


def test_pieces_do_not_change_the_adaptive_bound(monkeypatch):
    mean_tv = torch.rand(3, 101, generator=torch.Generator().manual_seed(1)).double() / 50
    horizon = torch.tensor([101, 0, 40])
    whole = adaptive_bound(mean_tv, horizon, max_kl=1e-3, max_tv=0.02)
    monkeypatch.setattr(module, "_CHUNK", 21)
    torch.testing.assert_close(adaptive_bound(mean_tv, horizon, max_kl=1e-3, max_tv=0.02), whole, rtol=1e-13, atol=0)
    assert whole[1] == 0


def test_ends_of_the_ranges():
    one = as_floats(error_bounds(1, math.inf, math.inf))
    # the first token is drawn in the same context: no error but what the mixed bounds cannot see, 4 * 1 * 1 * 1
    assert one == {name: 4.0 if name.startswith("mixed") else 0.0 for name in NAMES}
    assert set(as_floats(error_bounds(0, 0.1, 0.1)).values()) == {0.0}
    assert set(as_floats(error_bounds(1000, 0.0, 0.0)).values()) == {0.0}
    saturated = as_floats(error_bounds(10, math.inf, math.inf))
    assert saturated.pop("classical") == math.inf
    assert set(saturated.values()) == {36.0, 40.0}


@pytest.mark.parametrize("name", ["horizon", "max_kl", "seq_kl", "max_tv", "seq_tv"])
def test_what_is_not_a_number_or_out_of_range_is_never_a_small_bound(name):
    given = {"horizon": 100, "max_kl": 1e-3, "seq_kl": 0.05, "max_tv": 0.01, "seq_tv": 0.1}
    assert not error_bounds(**given).unified.isnan()
    mean_tv = torch.full((100,), 0.01, dtype=torch.float64)
    for bad in (math.nan, -1e-9):
        broken = {**given, name: float64([given[name], bad])}
        for extra in (None, mean_tv):
            values = error_bounds(**broken, mean_tv=extra)
            # seq_kl reaches no bound's value through mixed_tv if seq_tv is given, but mixed_kl and so B*
            assert values.unified.isnan().tolist() == [False, True]
    if name != "horizon":
        assert error_bounds(**{**given, name: math.nan}).unified.isnan()
        assert error_bounds(**{**given, name: math.nan}, mean_tv=mean_tv).unified.isnan()


def test_a_broken_or_missing_position_gives_nan():
    for bad in (math.nan, -0.1):
        mean_tv = float64([0.1, bad, 0.1])
        horizon = torch.tensor([1, 2, 3, 4])
        # the second position counts from T = 2 on, even though the last position's weight is 0; there is no fourth
        assert adaptive_bound(mean_tv, horizon, max_tv=0.1).isnan().tolist() == [False, True, True, True]
    assert error_bounds(4, 0.1, 0.1, mean_tv=torch.zeros(3)).unified.isnan()
    # not even where nothing is summed
    assert adaptive_bound(torch.zeros(3), 0, max_kl=math.nan).isnan()
    assert adaptive_bound(torch.zeros(3), 0, max_tv=math.nan).isnan()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizon": -1}, "horizon: got -1; allowed: a whole number of 0 or more; count"),
        ({"horizon": 2.5}, "horizon: got 2.5"),
        ({"horizon": True}, "horizon: got True"),
        ({"max_kl": -1e-9}, "max_kl: got -1e-09; allowed: 0 or more; give"),
        ({"seq_kl": "0.1"}, "seq_kl: got '0.1'"),
        ({"max_tv": 1.5}, "max_tv: got 1.5; allowed: 0 to 1; a total-variation"),
        ({"seq_tv": -0.5}, "seq_tv: got -0.5"),
        ({"max_kl": torch.ones(2), "seq_kl": torch.ones(3)}, r"max_kl \(2,\), seq_kl \(3,\)"),
        ({"max_kl": torch.ones(2, 2)}, r"max_kl: got torch.float32 of shape \(2, 2\)"),
        ({"max_kl": torch.ones(2, dtype=torch.bool)}, "max_kl: got torch.bool"),
        ({"mean_tv": torch.zeros(())}, r"mean_tv: got torch.float32 of shape \(\)"),
        ({"mean_tv": torch.zeros(3, dtype=torch.long)}, "mean_tv: got torch.int64"),
        ({"horizon": torch.ones(2), "mean_tv": torch.zeros(3, 5)}, r"mean_tv \(3,\), horizon \(2,\)"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        error_bounds(**{"horizon": 5, "max_kl": 0.1, "seq_kl": 0.1, **change})


def test_bounds_carry_no_gradient_and_are_float64():
    max_kl = torch.tensor([0.0, 0.1], requires_grad=True)
    values = error_bounds(5, max_kl, 0.1, mean_tv=torch.rand(5, requires_grad=True))
    assert all(value.dtype == torch.float64 and not value.requires_grad for value in asdict(values).values())


def test_the_effective_horizon_is_the_last_one_below_the_largest_reward():
    for delta, average, eps in [(1e-4, 2e-6, 5e-3), (1e-4, None, None), (0.05, 1e-3, None), (1e-8, 1e-9, 1e-5)]:
        longest = effective_horizon(delta, average, max_tv=eps).item()
        tv = pinsker(delta).item() if eps is None else eps

        def unified(horizon, delta=delta, average=delta if average is None else average, tv=tv):
            seq_tv = min(1.0, horizon * tv, math.sqrt(horizon * average / 2))
            return error_bounds(horizon, delta, horizon * average, max_tv=tv, seq_tv=seq_tv).unified.item()

        assert unified(longest) <= 1.0 < unified(longest + 1)
    # delta = 5 saturates every term: B*(2) = 4
    answers = effective_horizon(float64([0.0, 5.0, math.nan]))
    assert answers[:2].tolist() == [math.inf, 1.0]
    assert answers[2].isnan()
    with pytest.raises(ValueError, match="largest_bound: got nan"):
        effective_horizon(0.1, largest_bound=math.nan)
