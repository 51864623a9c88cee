import math

import pytest
import torch

from trm_agent.core.diagnostics import (
    NUM_TURN_BINS,
    SequenceStatistics,
    measure_batch,
    position_sums,
)
from trm_agent.core.divergences import masked_log_ratio, token_divergence
from trm_agent.core.masks import Interval
from trm_agent.core.token_batch import BatchDivergences, TokenBatch
from trm_agent.core.turns import turn_numbers

from . import reference
from .batches import Tensors, to_tensors
from .test_masks import decide

THRESHOLDS = (0.01, 0.002)


def measure(tensors: Tensors, thresholds=THRESHOLDS, ratio_truncation=None) -> SequenceStatistics:
    log_ratio = masked_log_ratio(tensors.log_probs, tensors.rollout_log_probs, tensors.response_mask)
    mask = decide(tensors, *thresholds)
    k2, k3 = (Interval.known(token_divergence(log_ratio, name)) for name in ("k2", "k3"))
    divergences = BatchDivergences(k2, k3, Interval.known(log_ratio.expm1().abs() / 2), log_ratio.expm1())
    # verl pads advantages with numbers
    advantages = tensors.advantages.nan_to_num(0.0)
    return measure_batch(
        TokenBatch(log_ratio, tensors.rollout_log_probs, advantages, tensors.response_mask, divergences),
        mask,
        max_threshold=thresholds[0],
        ratio_truncation=ratio_truncation,
    ).sequences


def test_every_statistic_equals_the_loops():
    batch = reference.random_batch(12)
    found = measure(to_tensors(batch, filler=math.nan), ratio_truncation=1.05)
    assert found.has_tokens.tolist() == [len(row) > 0 for row in batch.log_probs]
    for i in range(len(batch)):
        if not batch.log_probs[i]:
            continue
        k2, k3 = (reference.sequence_divergences(batch, i, name) for name in ("k2", "k3"))
        log_rho = [-value for value in reference.sequence_divergences(batch, i, "k1")]
        rho = [math.exp(value) for value in log_rho]
        sampled = [a for a, is_sampled in zip(batch.advantages[i], batch.sampled[i], strict=True) if is_sampled]
        accepted = reference.accepted(batch, i, *THRESHOLDS)
        gain = sum(a * (r - 1) for a, r in zip(sampled, rho, strict=True))
        largest = max(range(len(k2)), key=k2.__getitem__)
        expected = {
            "accepted": accepted,
            "undecided": False,
            "num_tokens": len(k2),
            "num_kept_tokens": len(k2) if accepted else 0,
            "num_truncated_tokens": sum(value > 1.05 for value in rho),
            "num_undecided_tokens": 0,
            "max_kl": max(k2),
            "sum_kl": sum(k3),
            "max_tv": max(abs(value - 1) / 2 for value in rho),
            "sum_tv": sum(abs(value - 1) / 2 for value in rho),
            "sum_k3": sum(k3),
            "mean_log_ratio": sum(log_rho) / len(log_rho),
            "min_log_ratio": min(0.0, *log_rho),
            "max_log_ratio": max(0.0, *log_rho),
            "surrogate_gain": gain,
            "masked_surrogate_gain": gain if accepted else 0.0,
            "max_position": (largest + 1) / len(k2),
        }
        for name, value in expected.items():
            assert getattr(found, name)[i].item() == pytest.approx(value, rel=1e-6, abs=1e-12), name
    assert 0 < found.accepted.sum() < found.has_tokens.sum()
    assert 0 < found.num_truncated_tokens.sum() < found.num_tokens.sum()


def test_turns_are_runs_of_sampled_tokens():
    # context, two tokens of turn 1, an observation, one of turn 2, padding
    mask = torch.tensor([[False, True, True, False, True, False], [True, False, False, False, False, False]])
    assert turn_numbers(mask).tolist() == [[0, 1, 1, 1, 2, 2], [1, 1, 1, 1, 1, 1]]


def test_the_turn_bins_tell_where_a_sequence_leaves_the_region():
    # five turns of one token with a gap; the fourth token is off: bins of turns are 1, 2, 3-4, 5-8
    mask = torch.tensor([[True, False] * 5])
    rollout = torch.full((1, 10), -1.0)
    log_probs = rollout.clone()
    log_probs[0, 6] = -0.5  # k2 = 0.125
    tensors = Tensors(log_probs, rollout, torch.ones(1, 10), mask)
    found = measure(tensors)
    assert found.num_turns.tolist() == [5]
    assert found.max_turn.tolist() == [4]
    assert found.max_position.tolist() == pytest.approx([0.8])
    assert found.turn_reached[0].tolist() == [True] * 4 + [False] * (NUM_TURN_BINS - 4)
    assert found.turn_inside[0].tolist() == [True, True, False, True] + [False] * (NUM_TURN_BINS - 4)


def test_turn_bins_equal_a_loop():
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(40, 60, generator=generator) < 0.5
    rollout = torch.full(mask.shape, -1.0)
    log_probs = rollout + 0.2 * torch.randn(mask.shape, generator=generator)
    found = measure(Tensors(log_probs, rollout, torch.ones(mask.shape), mask))
    for row in range(len(mask)):
        turn, outside = 0, {}
        for t in range(mask.shape[1]):
            if mask[row, t]:
                turn += t == 0 or not mask[row, t - 1]
                bin_ = 0 if turn == 1 else math.ceil(math.log2(turn))
                is_outside = (log_probs[row, t] + 1.0).item() ** 2 / 2 > THRESHOLDS[0]
                outside[bin_] = outside.get(bin_, False) or is_outside
        assert found.turn_reached[row].nonzero().flatten().tolist() == sorted(outside)
        assert found.turn_inside[row].nonzero().flatten().tolist() == sorted(k for k, bad in outside.items() if not bad)


def test_position_sums_count_tokens_of_the_model():
    mask = torch.tensor([[False, True, False, True], [True, True, True, False]])
    values = torch.tensor([[0.0, 1.0, 0.0, 2.0], [10.0, 20.0, 30.0, 0.0]])
    assert position_sums(values, mask.cumsum(-1)).tolist() == [11.0, 22.0, 30.0, 0.0]


def test_what_is_not_finite_is_in_no_sum_of_a_position():
    # |rho - 1| / 2 of log 2 is 0.5; the second sequence has a token that the policy cannot produce
    mask = torch.tensor([[True, False, True], [True, True, True]])
    log_ratio = torch.tensor([[math.log(2.0), 0.0, 0.0], [0.0, -torch.inf, math.log(2.0)]])
    batch = TokenBatch(log_ratio, torch.zeros(2, 3), torch.ones(2, 3), mask)
    decision = decide(Tensors(log_ratio, torch.zeros(2, 3), torch.ones(2, 3), mask), 10.0, None)
    assert measure_batch(batch, decision).position_tv.tolist() == [0.5, 0.0, 0.0]


def test_an_interval_counts_its_undecided_tokens():
    mask = torch.tensor([[True, True, True, False]])
    kl = Interval(torch.tensor([[0.001, 0.005, 0.02, 0.0]]), torch.tensor([[0.002, 0.02, 0.03, 0.0]]))
    tensors = Tensors(torch.zeros(1, 4), torch.zeros(1, 4), torch.ones(1, 4), mask)
    zeros, decision = torch.zeros(1, 4), decide(tensors, 0.01, None)
    divergences = BatchDivergences(kl, kl, kl, zeros)
    batch = TokenBatch(zeros, zeros, torch.ones(1, 4), mask, divergences)
    found = measure_batch(batch, decision, max_threshold=0.01).sequences
    assert found.num_undecided_tokens.tolist() == [1]
    assert found.max_kl.tolist() == pytest.approx([0.03])


def test_a_token_mask_counts_its_own_tokens():
    batch = reference.random_batch(13)
    tensors = to_tensors(batch)
    log_ratio = masked_log_ratio(tensors.log_probs, tensors.rollout_log_probs, tensors.response_mask).detach()
    kl = Interval.known(token_divergence(log_ratio, "k2"))
    kept = tensors.response_mask & (log_ratio > 0)
    mask = decide(tensors, 0.01, None)
    divergences = BatchDivergences(kl, kl, kl, log_ratio.expm1())
    measured = TokenBatch(log_ratio, tensors.rollout_log_probs, tensors.advantages, tensors.response_mask, divergences)
    found = measure_batch(measured, mask, kept=kept).sequences
    assert torch.equal(found.num_kept_tokens, kept.sum(-1))
    torch.testing.assert_close(
        found.masked_surrogate_gain, (tensors.advantages * log_ratio.expm1() * kept).sum(-1), rtol=1e-9, atol=1e-12
    )


def test_no_statistic_carries_a_gradient():
    found = measure(to_tensors(reference.random_batch(3)))
    tensors = [value for value in vars(found).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) > 10
    assert not any(value.requires_grad for value in tensors)


def test_what_is_counted_as_truncated_is_what_the_loss_truncates():
    # three policies: w = 3 above the cap of 2 while rho = 1; and w = 1 below the cap of 1.2 while rho = 1.28
    mask, zeros = torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 3)
    for log_rho, log_weight, cap, expected in ((0.0, math.log(3), 2.0, 3), (math.log(1.28), 0.0, 1.2, 0)):
        log_ratio = torch.full((1, 3), log_rho)
        kl = Interval.known(log_ratio.square() / 2)
        divergences = BatchDivergences(kl, kl, kl, log_ratio.expm1())
        batch = TokenBatch(log_ratio, zeros, zeros, mask, divergences, torch.full((1, 3), log_weight))
        decision = decide(Tensors(log_ratio, zeros, zeros, mask), 10.0, None)
        found = measure_batch(batch, decision, ratio_truncation=cap)
        assert found.sequences.num_truncated_tokens.tolist() == [expected]


def test_a_ratio_at_the_cap_is_not_truncated():
    tensors = Tensors(torch.full((1, 2), -1.0), torch.full((1, 2), -1.0), torch.ones(1, 2), torch.ones(1, 2) > 0)
    assert measure(tensors, ratio_truncation=1.0).num_truncated_tokens.tolist() == [0]


def test_without_a_divergence_the_peak_is_the_first_token_of_the_model():
    # on policy, after two tokens of an observation; then one without a token
    mask = torch.tensor([[False, False, True, True], [False] * 4])
    rollout = torch.full((2, 4), -1.0)
    found = measure(Tensors(rollout, rollout, torch.ones(2, 4), mask))
    assert found.max_position[0].item() == 0.5
    assert found.max_turn[0].item() == 1


def test_statistics_hold_on_to_no_batch():
    found = measure(to_tensors(reference.random_batch(3)))
    rows = len(found.has_tokens)
    for name, value in vars(found).items():
        if isinstance(value, torch.Tensor) and value.ndim == 1:
            assert value.untyped_storage().nbytes() <= 8 * rows, name
