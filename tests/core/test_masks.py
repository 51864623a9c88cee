import itertools
import math

import pytest
import torch

from trm_agent.core import masked_log_ratio, sequence_mask_from_tokens, token_kl

from . import reference
from .batches import Tensors, to_tensors

THRESHOLDS = [(0.02, None), (None, 0.004), (0.05, 0.004), (1e-9, None), (10.0, 10.0)]


def decide(tensors: Tensors, max_threshold, avg_threshold, max_estimator="k2", avg_estimator="k3"):
    log_ratio = masked_log_ratio(tensors.log_probs, tensors.rollout_log_probs, tensors.response_mask)
    return sequence_mask_from_tokens(
        token_kl(log_ratio, max_estimator),
        token_kl(log_ratio, avg_estimator),
        tensors.response_mask,
        max_threshold=max_threshold,
        avg_threshold=avg_threshold,
    )


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
        assert mask.rejected_by_max.tolist() == by_max
        kept += sum(expected)
        rejected += len(expected) - sum(expected)
    assert rejected > 0
    assert kept > 0 or thresholds[0] == 1e-9


def test_both_is_the_conjunction_and_counts_every_reason():
    tensors = to_tensors(reference.random_batch(3))
    by_max, by_avg, both = decide(tensors, 0.02, None), decide(tensors, None, 0.004), decide(tensors, 0.02, 0.004)
    assert torch.equal(both.accepted, by_max.accepted & by_avg.accepted)
    assert torch.equal(both.rejected_by_max, by_max.rejected_by_max)
    assert torch.equal(both.rejected_by_avg, by_avg.rejected_by_avg)


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
    assert not any(value.requires_grad for value in vars(mask).values())


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
