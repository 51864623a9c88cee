"""The metrics of an update: independent of how it was split, whatever is not finite, and true where they promise."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from trm_agent.core.diagnostics import concatenate, measure_batch
from trm_agent.core.divergences import masked_log_ratio
from trm_agent.core.masks import Interval, max_statistic, sequence_mask
from trm_agent.core.summary import common_thresholds, least_threshold, summarize
from trm_agent.core.token_batch import BatchDivergences, TokenBatch
from trm_agent.trust_region.criteria import CRITERIA
from trm_agent.trust_region.masking import examine
from trm_agent.trust_region.settings import TrmConfig

from . import reference
from .batches import Tensors, to_tensors


def settings(criterion: str, **more) -> TrmConfig:
    thresholds = {"max_token_kl": 0.01, "avg_token_kl": 0.002, "token_tv": 0.02}
    before = {"mask_policy": "start_of_step", "estimator": "sampled"} if criterion == "permuted" else {}
    return TrmConfig(criterion=criterion, ratio_truncation=1.05, **(thresholds | more | before))


def measured(
    trm: TrmConfig,
    tensors: Tensors,
    noise: torch.Tensor | None,
    prompts: torch.Tensor | None = None,
    groups: torch.Tensor | None = None,
):
    log_ratio = masked_log_ratio(tensors.log_probs, tensors.rollout_log_probs, tensors.response_mask).detach()
    divergences = None
    if noise is not None:
        kl = torch.where(tensors.response_mask, log_ratio.square() / 2, 0.0)
        interval = Interval(kl * (1 - noise), kl * (1 + noise))
        tv = log_ratio.expm1().abs() / 2
        divergences = BatchDivergences(interval, interval, Interval(tv, tv * (1 + noise)), log_ratio.expm1())
    batch = TokenBatch(
        log_ratio,
        tensors.rollout_log_probs,
        tensors.advantages,
        tensors.response_mask,
        divergences,
        prompt_lengths=prompts,
        groups=groups,
    )
    # what is decided on a whole update is here a matter of the sequence alone
    decided = torch.where(tensors.response_mask, tensors.advantages, 0.0).sum(dim=-1) > 0
    batch = replace(batch, start_log_ratio=log_ratio, decided=decided)
    return examine(trm, batch)[1]


def trimmed(tensors: Tensors, noise: torch.Tensor, rows: slice, extra: int) -> tuple[Tensors, torch.Tensor]:
    """Some sequences at their own width, as verl's micro-batches have, or wider by `extra` unsampled tokens."""
    mask = tensors.response_mask[rows]
    width = max(1, int(mask.any(dim=0).nonzero().max()) + 1 if mask.any() else 1)

    def cut(values: torch.Tensor, filler: float | bool) -> torch.Tensor:
        return torch.nn.functional.pad(values.detach()[rows, :width], (0, extra), value=filler)

    part = Tensors(
        cut(tensors.log_probs, -7.0),
        cut(tensors.rollout_log_probs, -3.0),
        cut(tensors.advantages, 0.0),
        cut(tensors.response_mask, False),
    )
    return part, cut(noise, 0.0)


def awkward_batch(seed: int) -> Tensors:
    """Ragged rows, with -infinity, NaN, an overflow, a row on policy, and one that does not begin with the model."""
    tensors = to_tensors(reference.random_batch(seed, num_sequences=14), dtype=torch.float64)
    log_probs = tensors.log_probs.detach().clone()
    rows = [row for row in range(14) if tensors.response_mask[row].sum() > 2][:5]
    first = [int(tensors.response_mask[row].nonzero()[0]) for row in rows]
    log_probs[rows[0], first[0]] = -torch.inf
    log_probs[rows[1], first[1]] = torch.nan
    tensors.rollout_log_probs[rows[2], first[2]] = -1e4
    log_probs[rows[3]] = tensors.rollout_log_probs[rows[3]]
    tensors.response_mask[rows[4], first[4]] = False
    log_probs[rows[4]] = tensors.rollout_log_probs[rows[4]]
    return Tensors(log_probs, tensors.rollout_log_probs, tensors.advantages, tensors.response_mask)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("intervals", [False, True])
@pytest.mark.parametrize("finite", [False, True])
def test_no_metric_depends_on_how_the_update_was_split(criterion, intervals, finite):
    seed = 3
    batch = to_tensors(reference.random_batch(seed, num_sequences=14)) if finite else awkward_batch(seed)
    noise = torch.rand(batch.response_mask.shape, generator=torch.Generator().manual_seed(seed)).double() / 2
    trm = settings(criterion, **({"estimator": "topk"} if intervals else {}))
    prompts = torch.randint(300, (14,), generator=torch.Generator().manual_seed(seed))
    # whose sequences are in several parts
    groups = torch.arange(14) * 5 % 4
    expected = summarize(measured(trm, batch, noise if intervals else None, prompts, groups))
    assert len(expected) > 50
    for borders, extra in (([0, 1, 4, 9, 14], 2), (list(range(15)), 0)):
        parts = [
            measured(trm, part, part_noise if intervals else None, prompts[start:end], groups[start:end])
            for start, end in itertools.pairwise(borders)
            for part, part_noise in [trimmed(batch, noise, slice(start, end), extra)]
        ]
        found = summarize(concatenate(parts[::-1]))
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].item() == pytest.approx(value.item(), rel=1e-9, abs=1e-12), name


def test_a_sequence_that_is_not_finite_keeps_its_length():
    # 4, 2 and 4 tokens, one log-prob of -infinity in the first; `ser` keeps what it can
    mask = torch.tensor([[True] * 4, [True, True, False, False], [True] * 4])
    rollout = torch.full((3, 4), -1.0)
    log_probs = rollout.clone()
    log_probs[0, 1] = -torch.inf
    trm = TrmConfig(criterion="ser", ratio_deviation=1.0)
    kept, update = examine(trm, TokenBatch(masked_log_ratio(log_probs, rollout, mask), rollout, torch.ones(3, 4), mask))
    metrics = {name: value.item() for name, value in summarize(update).items()}
    assert kept.sum() == 10
    assert update.sequences.num_tokens.tolist() == [4, 2, 4]
    assert metrics["kept_tokens"] == 1.0
    assert metrics["horizon"] == 4.0
    assert metrics["nonfinite"] == pytest.approx(1 / 3)
    # on policy but for the one that is not finite: nothing of it is in a mean, an extreme or a bound
    assert metrics["bound_adaptive"] == metrics["token_kl_max"] == metrics["token_tv_mean"] == 0.0


def test_without_a_finite_sequence_lengths_still_count():
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    rollout, log_probs = torch.full((2, 4), -1.0), torch.full((2, 4), torch.nan)
    _, update = examine(
        TrmConfig(), TokenBatch(masked_log_ratio(log_probs, rollout, mask), rollout, torch.ones(2, 4), mask)
    )
    metrics = {name: value.item() for name, value in summarize(update).items()}
    assert (metrics["horizon"], metrics["nonfinite"], metrics["acceptance"]) == (4.0, 1.0, 0.0)
    assert [metrics[f"acceptance_length_q{quarter}"] for quarter in (1, 2, 3, 4)] == [0.0] * 4
    assert metrics["seq_max_kl_p50"] == math.inf


def test_acceptance_by_length_sees_the_length_of_what_is_not_finite():
    # the two longest are not finite and rejected, the two shortest are kept
    mask = torch.arange(8) < torch.tensor([[2], [3], [7], [8]])
    rollout = torch.full((4, 8), -1.0)
    log_probs = rollout.clone()
    log_probs[2:, 0] = -torch.inf
    _, update = examine(
        TrmConfig(), TokenBatch(masked_log_ratio(log_probs, rollout, mask), rollout, torch.ones(4, 8), mask)
    )
    metrics = summarize(update)
    assert [metrics[f"acceptance_length_q{quarter}"].item() for quarter in (1, 2, 3, 4)] == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("pad", [0, 3])
@pytest.mark.parametrize(("shift", "least", "largest"), [(-0.1, math.exp(-0.1), 1.0), (0.1, 1.0, math.exp(0.1))])
def test_extreme_ratios_include_one_with_and_without_padding(pad, shift, least, largest):
    mask = torch.arange(4 + pad).expand(2, -1) < 4
    rollout = torch.full(mask.shape, -1.0, dtype=torch.float64)
    log_ratio = masked_log_ratio(rollout + shift, rollout, mask)
    metrics = summarize(examine(TrmConfig(), TokenBatch(log_ratio, rollout, torch.ones_like(rollout), mask))[1])
    assert metrics["ratio_min"].item() == pytest.approx(least, rel=1e-12)
    assert metrics["ratio_max"].item() == pytest.approx(largest, rel=1e-12)


def test_a_quantile_beyond_the_finite_is_infinite():
    mask = torch.ones(4, 1, dtype=torch.bool)
    rollout = torch.full((4, 1), -1.0)
    log_probs = torch.tensor([[-1.0], [-1.1], [-torch.inf], [torch.nan]])
    metrics = summarize(
        examine(TrmConfig(), TokenBatch(masked_log_ratio(log_probs, rollout, mask), rollout, torch.ones(4, 1), mask))[1]
    )
    assert metrics["seq_max_kl_p50"].item() == pytest.approx(0.1**2 / 2, rel=1e-5)
    assert metrics["seq_max_kl_p90"].item() == metrics["seq_max_kl_p99"].item() == math.inf


def test_the_bounds_without_a_premise_take_the_longest_sequence_that_there_can_be():
    # log rho = -3 at each of 4 tokens: (rho - 1)^2 = 0.9029, k3 = 2.0498. sum 3.6116; sum of (t - 1) k3 / 2 = 6.149, of
    # which T - 1 is the cap; with k2 = 4.5 nothing is stopped, and theta may leave with probability 1
    mask = torch.ones(2, 4, dtype=torch.bool)
    log_ratio = torch.full((2, 4), -3.0, dtype=torch.float64)
    of = TokenBatch(log_ratio, torch.zeros_like(log_ratio), torch.ones_like(log_ratio), mask)
    update = examine(TrmConfig(max_token_kl=10.0), of)[1]
    found = {longest: summarize(update, longest) for longest in (None, 3, 6, 100)}
    for longest, cap in ((None, 3.0), (3, 3.0), (6, 5.0), (100, 6.149)):
        chi2_kl = math.sqrt(3.6116 * cap)
        assert found[longest]["bound_chi2_kl"].item() == pytest.approx(chi2_kl, rel=1e-4)
        assert found[longest]["bound_stop"].item() == pytest.approx(1 + chi2_kl, rel=1e-4)
    apart = {name for name, value in found[None].items() if value != found[100][name]}
    assert apart <= {f"bound_{name}{end}" for name in ("chi2_kl", "stop") for end in ("", "_low", "_high")}
    assert found[100]["horizon"] == 4


def uniform_tree(vocabulary: int, horizon: int, spread: float, generator: torch.Generator):
    """A tree whose rollout is uniform: all trajectories alike likely, so the mean over one batch of them is exact.

    Returns:
        log rho, exact KL and TV of every trajectory's tokens, shape (leaves, horizon), and theta's probabilities.
    """
    leaves = vocabulary**horizon
    log_ratio, kl, tv = (torch.zeros(leaves, horizon, dtype=torch.float64) for _ in range(3))
    theta = torch.ones(leaves, dtype=torch.float64)
    for t in range(horizon):
        shape = vocabulary**t, vocabulary
        q = (spread * torch.randn(shape, generator=generator, dtype=torch.float64)).softmax(-1)
        below = vocabulary ** (horizon - t - 1)
        log_ratio[:, t] = (q * vocabulary).log().flatten().repeat_interleave(below)
        kl[:, t] = (-(q * vocabulary).log().mean(-1)).repeat_interleave(vocabulary * below)
        tv[:, t] = ((q - 1 / vocabulary).abs().sum(-1) / 2).repeat_interleave(vocabulary * below)
        theta *= q.flatten().repeat_interleave(below)
    return log_ratio, kl, tv, theta


def test_a_positive_margin_is_an_improvement_whatever_the_mask_rejects():
    # the reward against the mask: it pays what is kept and gains, and what is rejected and loses
    generator, positive, fell_with_masked_gain = torch.Generator().manual_seed(0), 0, 0
    for vocabulary, horizon in [(2, 1), (3, 1), (5, 1), (2, 2), (3, 2), (2, 3), (2, 4)]:
        for trial in range(8):
            spread = 10 ** (2.5 * torch.rand((), generator=generator).item() - 3)
            log_ratio, kl, tv, theta = uniform_tree(vocabulary, horizon, spread, generator)
            mask = torch.ones(log_ratio.shape, dtype=torch.bool)
            statistic = max_statistic(Interval.known(log_ratio.square() / 2))
            threshold = statistic.upper.median().item()
            decision = sequence_mask({"max": statistic}, {"max": threshold}, mask.any(dim=-1))
            rises = log_ratio.expm1().sum(-1) > 0
            against = torch.where(decision.accepted, rises, ~rises).double()
            reward = against if trial % 2 else torch.rand(len(rises), generator=generator, dtype=torch.float64)
            advantages = reward.unsqueeze(-1).expand_as(log_ratio)
            known = BatchDivergences(Interval.known(kl), Interval.known(kl), Interval.known(tv), log_ratio.expm1())
            update = measure_batch(TokenBatch(log_ratio, log_ratio, advantages, mask, known), decision)
            metrics = {name: value.item() for name, value in summarize(update).items()}
            change = (reward * (theta - 1 / len(theta))).sum().item()
            if metrics["margin"] > 1e-12:
                positive += 1
                assert change > 0
            fell_with_masked_gain += metrics["surrogate_gain_masked"] - metrics["bound_unified"] > 1e-12 > 0 > change
    assert positive > 10
    assert fell_with_masked_gain > 3


def test_one_criterion_gives_the_quantile():
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 7, 40):
        values = torch.randint(0, 12, (size,), generator=generator).double()
        for share in (0.01, 0.3, 0.5, 0.7, 0.9, 1.0):
            found = common_thresholds({"max": values}, torch.ones(size), share)["max"]
            assert found == least_threshold(values, share)


def test_both_thresholds_keep_the_share_together():
    generator = torch.Generator().manual_seed(1)
    for correlation in (0.0, 0.7, 1.0, -0.9):
        first = torch.randn(200, generator=generator)
        second = correlation * first + math.sqrt(1 - correlation**2) * torch.randn(200, generator=generator)
        statistics = {"max": first.exp(), "avg": (second / 50).exp() - 0.5}
        for share in (0.1, 0.5, 0.9, 1.0):
            found = common_thresholds(statistics, torch.ones(200), share)
            kept = (statistics["max"] <= found["max"]) & (statistics["avg"] <= found["avg"])
            assert share <= kept.double().mean().item() < share + 0.0101
            # each at the same quantile of its own
            alone = [(statistics[name] <= found[name]).double().mean().item() for name in ("max", "avg")]
            assert abs(alone[0] - alone[1]) < 0.0101


def test_weights_make_updates_count_alike():
    # two updates of 10 and 90 sequences; half of the first is at most 5, all of the second at 20
    values = torch.cat([torch.arange(1.0, 11.0), torch.full((90,), 20.0)])
    weights = torch.cat([torch.full((10,), 9.0), torch.full((90,), 1.0)])
    assert common_thresholds({"max": values}, weights, 0.25)["max"] == 5.0
    assert common_thresholds({"max": values}, torch.ones(100), 0.05)["max"] == 5.0
    assert common_thresholds({"max": values}, weights, 0.51)["max"] == 20.0


def test_a_share_that_needs_what_is_not_finite_has_an_infinite_threshold():
    values = torch.tensor([0.1, 0.2, math.nan, math.inf])
    assert common_thresholds({"max": values}, torch.ones(4), 0.5)["max"].item() == pytest.approx(0.2)
    assert common_thresholds({"max": values}, torch.ones(4), 0.75)["max"] == math.inf
