import math

import pytest
import torch

from trm_agent.core.divergences import masked_log_ratio, token_divergence
from trm_agent.core.reductions import masked_max, masked_mean, masked_min, masked_sum, occurs

from . import reference
from .batches import to_tensors


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "abs_log_ratio", "abs_ratio_minus_one"])
def test_token_divergences_equal_the_loops(estimator):
    batch = reference.random_batch(0)
    tensors = to_tensors(batch, filler=math.nan)
    log_ratio = masked_log_ratio(tensors.log_probs, tensors.rollout_log_probs, tensors.response_mask)
    values = token_divergence(log_ratio, estimator)
    for row in range(len(batch)):
        for t in range(values.shape[1]):
            if t < len(batch.sampled[row]) and batch.sampled[row][t]:
                expected = reference.token_divergence(
                    batch.log_probs[row][t], batch.rollout_log_probs[row][t], estimator
                )
            else:
                expected = 0.0
            assert values[row, t].item() == pytest.approx(expected, rel=1e-9, abs=1e-14)


def test_direction_is_rollout_first():
    # One token where the rollout was twice as sure: rho = 1/2, so k1 = log 2 > 0 and k3 = 1/2 - 1 + log 2.
    log_ratio = masked_log_ratio(
        torch.tensor([[math.log(0.25)]]), torch.tensor([[math.log(0.5)]]), torch.tensor([[True]])
    )
    assert token_divergence(log_ratio, "k1").item() == pytest.approx(math.log(2), rel=1e-6)
    assert token_divergence(log_ratio, "k2").item() == pytest.approx(math.log(2) ** 2 / 2, rel=1e-6)
    assert token_divergence(log_ratio, "k3").item() == pytest.approx(math.log(2) - 0.5, rel=1e-6)


def test_expectation_of_k1_and_k3_is_the_exact_kl():
    rollout, policy = torch.tensor([[0.5, 0.3, 0.2]]).double(), torch.tensor([[0.2, 0.3, 0.5]]).double()
    exact = (rollout * (rollout / policy).log()).sum().item()
    log_ratio = masked_log_ratio(policy.log(), rollout.log(), torch.ones(1, 3, dtype=torch.bool))
    for estimator in ("k1", "k3"):
        assert (rollout * token_divergence(log_ratio, estimator)).sum().item() == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("filler", [math.nan, math.inf, -math.inf])
def test_padding_reaches_neither_value_nor_gradient(filler):
    mask = torch.tensor([[True, False]])
    log_probs = torch.tensor([[-1.0, filler]], requires_grad=True)
    log_ratio = masked_log_ratio(log_probs, torch.tensor([[-2.0, filler]]), mask)
    log_ratio.exp().sum().backward()
    assert log_ratio.tolist() == [[1.0, 0.0]]
    # d exp(log ratio) / d log pi = e at the sampled token, 0 in the padding.
    torch.testing.assert_close(log_probs.grad, torch.tensor([[math.e, 0.0]]))


def test_half_precision_is_measured_in_float32():
    mask = torch.ones(1, 1, dtype=torch.bool)
    log_ratio = masked_log_ratio(torch.tensor([[-1.0]]).bfloat16(), torch.tensor([[-1.001]]), mask)
    assert log_ratio.dtype == torch.float32
    assert log_ratio.item() == pytest.approx(0.001, rel=1e-3)


def test_unequal_shapes_and_number_masks_are_refused():
    values = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 4\)"):
        masked_log_ratio(values, torch.zeros(2, 4), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"torch\.float32.*torch\.bool"):
        masked_log_ratio(values, values, torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"k4.*k1, k2, k3"):
        token_divergence(values, "k4")


def test_reductions_ignore_padding_and_define_the_empty_row():
    values = torch.tensor([[1.0, math.nan, 3.0], [math.nan, math.nan, math.nan]])
    mask = torch.tensor([[True, False, True], [False, False, False]])
    assert masked_sum(values, mask).tolist() == [4.0, 0.0]
    assert masked_mean(values, mask).tolist() == [2.0, 0.0]
    assert masked_max(values, mask).tolist() == [3.0, -math.inf]
    assert masked_min(values, mask).tolist() == [1.0, math.inf]
    assert occurs(mask).tolist() == occurs(mask.T.contiguous().T).tolist() == [True, False]
    assert occurs(mask[:, :0]).tolist() == [False, False]
    assert masked_max(torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool)).tolist() == [-math.inf, -math.inf]
