import itertools
import math

import pytest
import torch

from trm_agent.core.divergences import masked_log_ratio, token_divergence
from trm_agent.core.masks import (
    Interval,
    length_neutral_statistic,
    max_statistic,
    mean_statistic,
    random_mask,
    ratio_deviation_statistic,
    sequence_mask,
    usable_ratios,
)

from . import reference
from .batches import Tensors, to_tensors

THRESHOLDS = [(0.02, None), (None, 0.004), (0.05, 0.004), (1e-9, None), (10.0, 10.0)]


def decide(tensors: Tensors, max_threshold, avg_threshold, max_estimator="k2", avg_estimator="k3"):
    log_ratio = masked_log_ratio(tensors.log_probs, tensors.rollout_log_probs, tensors.response_mask)
    for_max, for_avg = (Interval.known(token_divergence(log_ratio, name)) for name in (max_estimator, avg_estimator))
    statistics = {
        "max": max_statistic(for_max),
        "avg": mean_statistic(for_avg, tensors.response_mask.sum(dim=-1)),
    }
    thresholds = {name: value for name, value in (("max", max_threshold), ("avg", avg_threshold)) if value is not None}
    return sequence_mask({name: statistics[name] for name in thresholds}, thresholds, tensors.response_mask.any(dim=-1))


@pytest.mark.parametrize("thresholds", THRESHOLDS)
@pytest.mark.parametrize(("max_estimator", "avg_estimator"), [("k2", "k3"), ("k3", "k2")])
def test_decisions_equal_the_loops(thresholds, max_estimator, avg_estimator):
    kept = rejected = 0
    for seed in range(20):
        batch = reference.random_batch(seed)
        mask = decide(to_tensors(batch, filler=math.nan), *thresholds, max_estimator, avg_estimator)
        expected = [reference.accepted(batch, i, *thresholds, max_estimator, avg_estimator) for i in range(len(batch))]
        assert mask.accepted.tolist() == expected
        assert mask.has_tokens.tolist() == [len(row) > 0 for row in batch.log_probs]
        by_max = [
            len(row) > 0 and not reference.accepted(batch, i, thresholds[0], None, max_estimator, avg_estimator)
            for i, row in enumerate(batch.log_probs)
        ]
        if thresholds[0] is not None:
            assert mask.rejected_by["max"].tolist() == by_max
        kept += sum(expected)
        rejected += len(expected) - sum(expected)
    assert rejected > 0
    assert kept > 0 or thresholds[0] == 1e-9


def test_both_is_the_conjunction_and_counts_every_reason():
    tensors = to_tensors(reference.random_batch(3))
    by_max, by_avg, both = decide(tensors, 0.02, None), decide(tensors, None, 0.004), decide(tensors, 0.02, 0.004)
    assert torch.equal(both.accepted, by_max.accepted & by_avg.accepted)
    assert torch.equal(both.rejected_by["max"], by_max.rejected_by["max"])
    assert torch.equal(both.rejected_by["avg"], by_avg.rejected_by["avg"])
    assert both.rejected_by.keys() == {"max", "avg"}


def test_on_policy_keeps_every_sequence_that_has_a_token():
    batch = reference.random_batch(1, spread=0.0)
    mask = decide(to_tensors(batch), 1e-12, 1e-12)
    assert mask.accepted.tolist() == [len(row) > 0 for row in batch.log_probs]


def test_acceptance_grows_with_the_threshold():
    tensors = to_tensors(reference.random_batch(5, num_sequences=30))
    grid = [10.0**exponent for exponent in range(-8, 2)]
    for masks in ([decide(tensors, t, None) for t in grid], [decide(tensors, None, t) for t in grid]):
        for tighter, looser in itertools.pairwise(masks):
            assert (~tighter.accepted | looser.accepted).all()
        assert masks[0].accepted.sum() < masks[-1].accepted.sum()


def test_decisions_do_not_depend_on_padding_or_batch_order():
    batch = reference.random_batch(7)
    expected = decide(to_tensors(batch), 0.02, 0.004).accepted
    assert torch.equal(decide(to_tensors(batch, width=40, filler=math.inf), 0.02, 0.004).accepted, expected)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0)).tolist()
    assert torch.equal(decide(to_tensors(batch).rows(order), 0.02, 0.004).accepted, expected[order])


def test_mask_carries_no_gradient():
    tensors = to_tensors(reference.random_batch(2))
    mask = decide(tensors, 0.02, 0.004)
    assert not any(value.requires_grad for value in (mask.accepted, mask.undecided, *mask.rejected_by.values()))


@pytest.mark.parametrize("broken", [math.nan, -math.inf])
@pytest.mark.parametrize("thresholds", [(0.05, None), (None, 0.001)])
def test_a_sequence_with_a_broken_token_is_rejected(broken, thresholds):
    mask = torch.ones(2, 2, dtype=torch.bool)
    log_probs = torch.tensor([[-1.0, broken], [-1.0, -1.0]])
    decision = decide(Tensors(log_probs, torch.full((2, 2), -1.0), torch.ones(2, 2), mask), *thresholds)
    assert decision.accepted.tolist() == [False, True]


def test_one_token_decides_the_maximum_and_its_share_the_average():
    # k2 of a log ratio of 0.4 is 0.08; three tokens on policy, so the average by k2 is 0.02.
    log_probs = torch.tensor([[-1.0, -1.0, -0.6, -1.0]])
    tensors = Tensors(log_probs, torch.full((1, 4), -1.0), torch.ones(1, 4), torch.ones(1, 4, dtype=torch.bool))
    assert decide(tensors, 0.0801, None, "k2", "k2").accepted.item()
    assert not decide(tensors, 0.0799, None, "k2", "k2").accepted.item()
    assert decide(tensors, None, 0.0201, "k2", "k2").accepted.item()
    assert not decide(tensors, None, 0.0199, "k2", "k2").accepted.item()


def interval(lower: list[float], upper: list[float]) -> Interval:
    return Interval(torch.tensor(lower), torch.tensor(upper))


@pytest.mark.parametrize(("rule", "expected"), [("reject", [True, False, False]), ("accept", [True, True, False])])
def test_an_interval_around_the_threshold_follows_the_rule(rule, expected):
    # inside, undecided, outside
    statistic = interval([0.01, 0.04, 0.06], [0.02, 0.06, 0.07])
    mask = sequence_mask({"max": statistic}, {"max": 0.05}, torch.ones(3, dtype=torch.bool), undecided=rule)
    assert mask.accepted.tolist() == expected
    assert mask.undecided.tolist() == [False, True, False]
    assert mask.rejected_by["max"].tolist() == [not kept for kept in expected]


def test_an_unknown_upper_bound_is_undecided_and_a_nan_is_rejected():
    statistic = interval([0.01, math.nan], [math.inf, math.nan])
    mask = sequence_mask({"max": statistic}, {"max": 0.05}, torch.ones(2, dtype=torch.bool), undecided="accept")
    assert mask.accepted.tolist() == [True, False]
    assert mask.undecided.tolist() == [True, False]


def test_a_rule_that_does_not_exist_and_a_criterion_without_threshold_are_refused():
    has_tokens = torch.ones(1, dtype=torch.bool)
    with pytest.raises(ValueError, match="undecided: got 'perhaps'"):
        sequence_mask({}, {}, has_tokens, undecided="perhaps")
    with pytest.raises(ValueError, match="max"):
        sequence_mask({"max": interval([0.0], [0.0])}, {}, has_tokens)


@pytest.mark.parametrize("max_token_tv", [None, 0.03, 0.9])
def test_length_neutral_and_ser_equal_the_loops(max_token_tv):
    for seed in range(20):
        batch = reference.random_batch(seed)
        tensors = to_tensors(batch, filler=math.nan)
        log_ratio = masked_log_ratio(tensors.log_probs, tensors.rollout_log_probs, tensors.response_mask)
        found = length_neutral_statistic(
            log_ratio, tensors.response_mask, max_token_kl=0.05, max_token_tv=max_token_tv
        ).upper
        expected = [reference.length_neutral(batch, i, 0.05, max_token_tv) for i in range(len(batch))]
        assert found.tolist() == pytest.approx(expected, rel=1e-12)
        ser = ratio_deviation_statistic(log_ratio, tensors.response_mask)
        expected = [reference.mean_ratio_deviation(batch, i) for i in range(len(batch))]
        assert ser.upper.tolist() == pytest.approx(expected, rel=1e-12)


def test_length_neutral_weighs_the_early_tokens_more():
    # one deviating token of four, |rho - 1| = 1; delta = 2 / 9, so w = sqrt((T - t) / 9) = sqrt(3)/3, sqrt(2)/3, 1/3, 0
    def statistic(position: int) -> float:
        log_ratio = torch.zeros(1, 4, dtype=torch.float64)
        log_ratio[0, position] = math.log(2.0)
        mask = torch.ones(1, 4, dtype=torch.bool)
        return length_neutral_statistic(log_ratio, mask, max_token_kl=2 / 9).upper.item()

    total = (math.sqrt(3) + math.sqrt(2) + 1) / 3
    assert [statistic(t) for t in range(4)] == pytest.approx(
        [math.sqrt(3) / 3 / total, math.sqrt(2) / 3 / total, 1 / 3 / total, 0.0]
    )


def test_the_random_mask_keeps_its_share_and_never_padding():
    has_tokens = torch.arange(20000) % 4 != 0
    mask = random_mask(has_tokens, 0.7, torch.Generator().manual_seed(0))
    # 15000 coins: a standard deviation of 0.0037
    assert mask.accepted[has_tokens].double().mean().item() == pytest.approx(0.7, abs=0.015)
    assert not mask.accepted[~has_tokens].any()
    assert torch.equal(mask.rejected_by["random"], has_tokens & ~mask.accepted)
    with pytest.raises(ValueError, match=r"acceptance: got 1\.5"):
        random_mask(has_tokens, 1.5)


def test_the_coin_rejects_what_every_criterion_rejects():
    has_tokens = torch.tensor([True, True, True, False])
    mask = random_mask(has_tokens, 1.0, usable=torch.tensor([True, False, True, False]))
    assert mask.accepted.tolist() == [True, False, True, False]
    assert mask.rejected_by["random"].tolist() == [False, True, False, False]


def test_a_ratio_is_usable_where_it_is_a_finite_number():
    log_ratio = torch.tensor([0.0, -torch.inf, 88.7, 88.8, torch.inf, torch.nan])
    assert usable_ratios(log_ratio).tolist() == [True, True, True, False, False, False]
    assert torch.isfinite(log_ratio[usable_ratios(log_ratio)].exp()).all()
    assert usable_ratios(log_ratio.double())[3]


def test_the_mask_says_what_it_compared():
    interval = Interval(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, torch.nan]))
    has_tokens = torch.ones(3, dtype=torch.bool)
    strict, lenient = (
        sequence_mask({"max": interval}, {"max": 3.5}, has_tokens, undecided=rule) for rule in ("reject", "accept")
    )
    assert strict.accepted.tolist() == [True, False, False]
    # what is not a number rejects, whichever bound it is
    assert lenient.accepted.tolist() == [True, True, False]
    assert torch.equal(strict.decided_by["max"][:2], interval.upper[:2])
    assert torch.equal(lenient.decided_by["max"], interval.lower)
