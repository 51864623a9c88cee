import math

import pytest
import torch

from trm_agent.core.divergences import masked_log_ratio
from trm_agent.core.surrogate import improvement_margin, surrogate, surrogate_gain

from . import reference
from .batches import Tensors, to_tensors


def ratios(tensors: Tensors) -> torch.Tensor:
    return masked_log_ratio(tensors.log_probs, tensors.rollout_log_probs, tensors.response_mask)


def first_column(batch: reference.Batch) -> torch.Tensor:
    """One number a sequence; NaN for a sequence without a token, which must not be read."""
    return torch.tensor([row[0] if row else math.nan for row in batch.advantages], dtype=torch.float64)


def loop(batch: reference.Batch, accepted: list[bool], offset: float, num_sequences: int) -> float:
    """(1/N) sum_i M_i A_i sum_t (rho_t - offset)."""
    total = 0.0
    for index, row in enumerate(batch.log_probs):
        for t, sampled in enumerate(batch.sampled[index]):
            if sampled and accepted[index]:
                rho = math.exp(row[t]) / math.exp(batch.rollout_log_probs[index][t])
                total += batch.advantages[index][t] * (rho - offset)
    return total / num_sequences


@pytest.mark.parametrize(("function", "offset"), [(surrogate, 0.0), (surrogate_gain, 1.0)])
def test_values_equal_the_loops(function, offset):
    for seed in range(10):
        batch = reference.random_batch(seed)
        tensors = to_tensors(batch, filler=math.nan)
        everything = [True] * len(batch)
        value = function(ratios(tensors), first_column(batch), tensors.response_mask)
        assert value.item() == pytest.approx(loop(batch, everything, offset, len(batch)), rel=1e-12, abs=1e-13)
        # masked: rejected sequences leave the sum and stay in N, here the batch of a step of twice the size
        accepted = [index % 3 > 0 for index in range(len(batch))]
        kept = tensors.response_mask & torch.tensor(accepted).unsqueeze(-1)
        value = function(ratios(tensors), first_column(batch), kept, num_sequences=2 * len(batch))
        assert value.item() == pytest.approx(loop(batch, accepted, offset, 2 * len(batch)), rel=1e-12, abs=1e-13)


def test_on_policy_the_surrogate_counts_tokens_and_the_gain_is_zero():
    # two sequences of 3 and 1 tokens with A = 1 and -2: (1 * 3 - 2 * 1) / 2
    kept = torch.tensor([[True, True, True], [True, False, False]])
    on_policy, advantages = torch.zeros(2, 3), torch.tensor([1.0, -2.0])
    assert surrogate(on_policy, advantages, kept).item() == 0.5
    assert surrogate_gain(on_policy, advantages, kept).item() == 0.0


def test_both_have_the_same_gradient_and_none_in_the_rewards():
    batch = reference.random_batch(3)
    gradients = []
    for function in (surrogate, surrogate_gain):
        tensors, rewards = to_tensors(batch), first_column(batch).requires_grad_()
        function(ratios(tensors), rewards, tensors.response_mask).backward()
        assert rewards.grad is None
        gradients.append(tensors.log_probs.grad)
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().sum() > 0


def test_a_small_step_keeps_its_digits():
    # float32: rho = 1 + 1e-9 rounds to 1, its gain does not
    gain = surrogate_gain(torch.tensor([[1e-9]]), torch.ones(1), torch.ones(1, 1, dtype=torch.bool))
    assert gain.item() == pytest.approx(1e-9, rel=1e-6)


def test_the_margin_is_what_the_bound_leaves():
    assert improvement_margin(torch.tensor(0.5), torch.tensor([0.25, 0.75])).tolist() == [0.25, -0.25]
    assert improvement_margin(torch.tensor(math.nan), torch.tensor(0.1)).isnan()


@pytest.mark.parametrize(("function", "name"), [(surrogate, "advantages"), (surrogate_gain, "rewards")])
def test_bad_arguments_are_refused(function, name):
    log_ratio, kept = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=rf"{name} \(2, 3\), log_ratio \(2, 3\)"):
        function(log_ratio, torch.zeros(2, 3), kept)
    with pytest.raises(ValueError, match=r"kept \(2, 4\)"):
        function(log_ratio, torch.zeros(2), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"kept: got torch\.float32"):
        function(log_ratio, torch.zeros(2), kept.float())
    with pytest.raises(ValueError, match="num_sequences: got 0"):
        function(log_ratio, torch.zeros(2), kept, num_sequences=0)


def test_what_earns_nothing_gains_nothing_however_large_its_ratio():
    log_ratio = torch.tensor([[200.0, 0.0], [0.1, -torch.inf]])
    gain = surrogate_gain(log_ratio, torch.tensor([0.0, 1.0]), torch.ones(2, 2, dtype=torch.bool))
    assert gain.item() == pytest.approx((math.expm1(0.1) - 1) / 2)
