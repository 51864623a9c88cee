"""Our bounds as an update estimates them: sums of single sequences, and intervals over their prompts."""

import math

import pytest
import torch

from trm_agent.core.bootstrap import NUM_RESAMPLES, group_means, interval, resampled_means
from trm_agent.core.bound_sums import bound_sums, unbiased_kl
from trm_agent.core.chi2_bounds import pooled_chi2_kl_bound
from trm_agent.core.divergences import masked_log_ratio
from trm_agent.core.reductions import rows_where
from trm_agent.core.sampled_bounds import sampled_bounds
from trm_agent.core.stop import stop_bound
from trm_agent.core.token_batch import TokenBatch

from . import reference
from .batches import to_tensors

DELTA = 0.01


def sums_of(batch: reference.Batch, max_kl: float = DELTA, **names) -> dict[str, torch.Tensor]:
    tensors = to_tensors(batch, filler=math.nan)
    log_ratio = masked_log_ratio(tensors.log_probs, tensors.rollout_log_probs, tensors.response_mask).detach()
    tokens = TokenBatch(
        log_ratio, tensors.rollout_log_probs, tensors.advantages.nan_to_num(0.0), tensors.response_mask, **names
    )
    positions = tokens.response_mask.cumsum(dim=-1, dtype=torch.int32)
    kl, divergences = unbiased_kl(tokens), tokens.divergences
    max_known_kl = divergences.kl_for_max.upper.amax(-1)
    stopped = max_known_kl > max_kl
    return bound_sums(
        tokens,
        kl,
        positions,
        sum_kl=kl.sum(-1),
        max_known_kl=max_known_kl,
        gain=(tokens.advantages * divergences.ratio_deviation).sum(-1),
        stopped=stopped,
        cut=rows_where(stopped),
        max_kl=max_kl,
    )


def estimated(
    sums: dict[str, torch.Tensor], horizon: int = 12, groups: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    return sampled_bounds(torch.tensor(horizon), sums, torch.ones(len(sums["chi2"]), dtype=torch.bool), groups)


def only_stopped(stopped: torch.Tensor) -> dict[str, torch.Tensor]:
    """On policy but for what is stopped at its first token: the bound of stop is the share of these."""
    zeros = torch.zeros(len(stopped))
    names = ("chi2", "kl", "delayed_kl", "stop_chi2", "stop_kl", "stop_delayed_kl", "stop_gain")
    return dict.fromkeys(names, zeros) | {"stopped": stopped.bool(), "stop_max_kl": torch.full_like(zeros, 0.05)}


def loop(batch: reference.Batch, index: int, max_kl: float) -> dict[str, float]:
    k2, k3, k1 = (reference.sequence_divergences(batch, index, name) for name in ("k2", "k3", "k1"))
    advantages = [a for a, sampled in zip(batch.advantages[index], batch.sampled[index], strict=True) if sampled]
    found = dict.fromkeys(("chi2", "kl", "delayed_kl", "stop_chi2", "stop_kl", "stop_delayed_kl", "stop_gain"), 0.0)
    found["stopped"] = False
    for t, (value, kl, minus_log_rho, advantage) in enumerate(zip(k2, k3, k1, advantages, strict=True)):
        deviation = math.exp(-minus_log_rho) - 1
        found["stopped"] = found["stopped"] or value > max_kl
        for prefix in ("", "stop_") if not found["stopped"] else ("",):
            found[f"{prefix}chi2"] += deviation**2
            found[f"{prefix}kl"] += kl
            found[f"{prefix}delayed_kl"] += t * kl
        if not found["stopped"]:
            found["stop_gain"] += advantage * deviation
    return found


@pytest.mark.parametrize("avg_estimator", ["k3", "k1"])
def test_every_sum_equals_the_loops(avg_estimator):
    stopped = 0
    for seed in range(6):
        batch = reference.random_batch(seed, num_sequences=12)
        found = sums_of(batch, avg_estimator=avg_estimator)
        for index in range(len(batch)):
            expected = loop(batch, index, DELTA)
            stopped += expected["stopped"]
            for name, value in expected.items():
                assert found[name][index].item() == pytest.approx(value, rel=1e-9, abs=1e-12), name
    assert 10 < stopped < 60


def test_without_a_threshold_nothing_is_said_of_stop():
    sums = sums_of(reference.random_batch(0), max_kl=math.inf)
    assert set(sums) == {"chi2", "kl", "delayed_kl", "max_kl"}
    assert set(estimated(sums)) == {f"bound_chi2_kl{end}" for end in ("", "_low", "_high")}


def test_the_estimates_are_the_bounds_of_the_means():
    sums = sums_of(reference.random_batch(1, num_sequences=30))
    metrics = estimated(sums)
    mean = {name: values.double().mean().item() for name, values in sums.items()}
    chi2_kl = pooled_chi2_kl_bound(12, mean["chi2"], mean["delayed_kl"]).item()
    assert metrics["bound_chi2_kl"].item() == pytest.approx(chi2_kl, rel=1e-12)
    sizes = [mean[name] for name in ("stopped", "stop_kl", "stop_chi2", "stop_delayed_kl")]
    assert metrics["bound_stop"].item() == pytest.approx(stop_bound(12, DELTA, *sizes).item(), rel=1e-12)
    assert metrics["surrogate_gain_stop"].item() == pytest.approx(mean["stop_gain"], rel=1e-12)
    for name in ("bound_chi2_kl", "bound_stop"):
        assert metrics[f"{name}_low"] < metrics[name] < metrics[f"{name}_high"]


def test_the_order_of_the_sequences_does_not_matter_and_no_random_number_is_drawn():
    sums, state = sums_of(reference.random_batch(2, num_sequences=20)), torch.get_rng_state()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    # 0 to 5 of three or four sequences; their names do not matter either
    for groups, others in ((None, None), (torch.arange(20) % 6, -7 * (torch.arange(20) % 6)[order])):
        expected = estimated(sums, groups=groups)
        found = estimated({name: values[order] for name, values in sums.items()}, groups=others)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].item() == pytest.approx(value.item(), rel=1e-12), name
    assert torch.equal(torch.get_rng_state(), state)


def test_groups_of_one_sequence_are_sequences_bit_for_bit():
    sums = sums_of(reference.random_batch(2, num_sequences=20))
    groups = torch.randperm(20, generator=torch.Generator().manual_seed(1)) - 10
    expected, found = estimated(sums), estimated(sums, groups=groups)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_of_one_prompt_there_is_no_interval():
    sums = sums_of(reference.random_batch(2, num_sequences=20))
    found = estimated(sums, groups=torch.zeros(20, dtype=torch.int64))
    assert found == {name: value for name, value in estimated(sums).items() if not name.endswith(("_low", "_high"))}


def test_a_resampled_mean_is_the_ratio_of_the_weighted_sums_of_groups():
    rows = torch.tensor([[3.0], [1.0], [2.0], [5.0], [4.0]], dtype=torch.float64)
    found = resampled_means(*group_means(rows, torch.tensor([9, 9, -2, 7, 9])))[:, 0]
    # means 8/3 of three sequences, 2 of one, 5 of one: the weights go to 2, 8/3, 5
    weights = torch.empty(NUM_RESAMPLES, 3, dtype=torch.float64)
    first, second, third = weights.exponential_(generator=torch.Generator().manual_seed(0)).unbind(dim=-1)
    expected = (2 * first + 8 * second + 5 * third) / (first + 3 * second + third)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_on_policy_only_what_no_sequence_showed_is_left():
    # nothing is stopped in 20 sequences; a share of 1 - 0.05^(1/20) = 0.139 would show in none of them once in twenty
    # of 5 prompts with four sequences each 1 - 0.05^(1/5) = 0.4507, since those of one may all be alike
    for groups, unseen in ((None, 0.1391), (torch.arange(20) % 5, 0.4507)):
        found = estimated(only_stopped(torch.zeros(20)), horizon=100, groups=groups)
        metrics = {name: value.item() for name, value in found.items()}
        assert metrics.pop("bound_stop_high") == pytest.approx(unseen, abs=1e-4)
        assert set(metrics.values()) == {0.0}


def test_a_sequence_that_is_not_finite_is_cut_and_no_part_of_chi2_kl():
    sums = sums_of(reference.random_batch(3, num_sequences=9))
    keep = torch.arange(9) != 4
    expected = estimated({name: values[keep] for name, values in sums.items()})
    broken = {name: torch.where(keep, values, torch.nan) for name, values in sums.items() if name != "stopped"}
    broken |= {"stopped": sums["stopped"], "stop_max_kl": sums["stop_max_kl"]}
    found = sampled_bounds(torch.tensor(12), broken, keep)
    assert found["bound_chi2_kl"].item() == pytest.approx(expected["bound_chi2_kl"].item(), rel=1e-12)
    # cut at its first token: stopped, with nothing kept
    cut = {name: torch.where(keep, values, 0.0) for name, values in broken.items() if name != "stop_max_kl"}
    mean = {name: values.double().mean().item() for name, values in cut.items()}
    stopped = (sums["stopped"] | ~keep).double().mean().item()
    bound = stop_bound(12, DELTA, stopped, mean["stop_kl"], mean["stop_chi2"], mean["stop_delayed_kl"]).item()
    assert found["bound_stop"].item() == pytest.approx(bound, rel=1e-12)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    # means of exponential values with mean 1, 400 samples of 50: 90 % within a few per cent
    rows = torch.empty(400, 50, 1, dtype=torch.float64).exponential_(generator=torch.Generator().manual_seed(0))
    low, high = interval(resampled_means(rows)[..., 0])
    covered = ((low <= 1) & (high >= 1)).double().mean().item()
    assert 0.83 <= covered <= 0.93
    assert low.shape == (400,)


def test_an_interval_of_groups_of_different_sizes_covers_the_truth_as_often_as_it_says():
    # 60 prompts of 1 to 8 sequences: an exponential value of the prompt and one of the sequence, with mean 1 each
    generator, covered = torch.Generator().manual_seed(0), 0

    def drawn(num: int) -> torch.Tensor:
        return torch.empty(num, dtype=torch.float64).exponential_(generator=generator)

    for _ in range(300):
        groups = torch.arange(60).repeat_interleave(torch.randint(1, 9, (60,), generator=generator))
        rows = (drawn(60)[groups] + drawn(len(groups))).unsqueeze(-1)
        low, high = interval(resampled_means(*group_means(rows, groups))[:, 0])
        covered += bool(low <= 2 <= high)
    # 90 % within a few per cent; sequences by themselves have 66 %
    assert 0.84 <= covered / 300 <= 0.94


def test_where_whole_prompts_leave_the_region_the_interval_holds_the_share():
    # 8 prompts of 16 sequences, a quarter of the prompts always leaves: k of the 8, whose interval holds 1/4 up to
    # k = 4, and P(k <= 4) = 97 %; of none the upper end is 1 - 0.05^(1/8) = 0.31. Sequences by themselves: a third
    generator, groups = torch.Generator().manual_seed(0), torch.arange(8).repeat_interleave(16)
    held, above = dict.fromkeys((True, False), 0), dict.fromkeys((True, False), 0)
    for _ in range(200):
        leaves = torch.rand(8, generator=generator) < 0.25
        for by_prompt in (True, False):
            found = estimated(only_stopped(leaves[groups]), groups=groups if by_prompt else None)
            held[by_prompt] += bool(found["bound_stop_low"] <= 0.25 <= found["bound_stop_high"])
            above[by_prompt] += bool(found["bound_stop_high"] < 0.25)
    assert held[True] >= 0.9 * 200
    assert above[True] <= 0.05 * 200
    assert held[False] < 0.45 * 200
    assert above[False] > 0.25 * 200
