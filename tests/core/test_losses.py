import math

import pytest
import torch

from trm_agent.core.divergences import masked_log_ratio
from trm_agent.core.losses import (
    decoupled_surrogate_tokens,
    kept_tokens,
    masked_surrogate_loss,
    masked_surrogate_tokens,
)

from . import reference
from .batches import Tensors, assert_gradient, to_tensors
from .test_masks import THRESHOLDS, decide


def surrogate(tensors: Tensors, num_sequences: int, thresholds=(0.02, None), ratio_truncation=None) -> torch.Tensor:
    log_ratio = masked_log_ratio(tensors.log_probs, tensors.rollout_log_probs, tensors.response_mask)
    return masked_surrogate_loss(
        log_ratio,
        tensors.advantages,
        kept_tokens(tensors.response_mask, decide(tensors, *thresholds).accepted),
        num_sequences=num_sequences,
        ratio_truncation=ratio_truncation,
    )


def expected(batch: reference.Batch, thresholds=(0.02, None), ratio_truncation=math.inf):
    keep = [reference.accepted(batch, i, *thresholds) for i in range(len(batch))]
    return reference.loss_and_gradient(batch, keep, len(batch), ratio_truncation)


@pytest.mark.parametrize("thresholds", THRESHOLDS)
@pytest.mark.parametrize("ratio_truncation", [None, 1.02])
def test_value_and_gradient_equal_the_loops(thresholds, ratio_truncation):
    for seed in range(10):
        batch = reference.random_batch(seed)
        tensors = to_tensors(batch, filler=math.nan)
        loss = surrogate(tensors, len(batch), thresholds, ratio_truncation)
        loss.backward()
        value, gradient = expected(batch, thresholds, ratio_truncation or math.inf)
        # float64 on both sides: only the order of the additions differs.
        assert loss.item() == pytest.approx(value, rel=1e-12, abs=1e-14)
        assert_gradient(tensors.log_probs, gradient)


def test_float32_is_close_to_the_float64_loops():
    batch = reference.random_batch(4)
    tensors = to_tensors(batch, dtype=torch.float32)
    loss = surrogate(tensors, len(batch), (0.05, None))
    loss.backward()
    value, gradient = expected(batch, (0.05, None))
    assert loss.item() == pytest.approx(value, rel=1e-5, abs=1e-6)
    assert_gradient(tensors.log_probs, gradient, rtol=1e-5, atol=1e-6)


def test_rejected_sequences_stay_in_the_denominator():
    # Two sequences of one on-policy token with A = 1; the second is far off. Loss = -(1 * 1 + 0) / 2, not -1.
    mask = torch.ones(2, 1, dtype=torch.bool)
    log_probs = torch.tensor([[-1.0], [-0.1]], requires_grad=True)
    loss = surrogate(Tensors(log_probs, torch.full((2, 1), -1.0), torch.ones(2, 1), mask), 2)
    loss.backward()
    assert loss.item() == -0.5
    assert log_probs.grad.tolist() == [[-0.5], [0.0]]


def test_all_rejected_gives_an_exactly_zero_gradient():
    batch = reference.random_batch(6)
    tensors = to_tensors(batch, filler=math.nan)
    loss = surrogate(tensors, len(batch), (1e-30, None))
    loss.backward()
    assert loss.item() == 0.0
    assert (tensors.log_probs.grad == 0).all()


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_broken_sequence_leaves_the_others_alone(broken):
    batch = reference.random_batch(8)
    tensors = to_tensors(batch)
    clean = surrogate(tensors, len(batch))
    clean.backward()
    victim = max(range(len(batch)), key=lambda i: len(batch.log_probs[i]))
    damaged = to_tensors(batch)
    with torch.no_grad():
        damaged.log_probs[victim, 0] = broken
    surrogate(damaged, len(batch)).backward()
    others = [i for i in range(len(batch)) if i != victim]
    assert torch.equal(damaged.log_probs.grad[others], tensors.log_probs.grad[others])
    assert (damaged.log_probs.grad[victim] == 0).all()


def test_padding_and_batch_order_do_not_matter():
    batch = reference.random_batch(9)
    plain = to_tensors(batch)
    base = surrogate(plain, len(batch), (0.05, None))
    base.backward()
    wide = to_tensors(batch, width=50, filler=math.nan)
    loss = surrogate(wide, len(batch), (0.05, None))
    loss.backward()
    torch.testing.assert_close(loss, base)
    torch.testing.assert_close(wide.log_probs.grad[:, : plain.log_probs.shape[1]], plain.log_probs.grad)
    order = list(reversed(range(len(batch))))
    shuffled = to_tensors(batch).rows(order)
    loss = surrogate(shuffled, len(batch), (0.05, None))
    loss.backward()
    torch.testing.assert_close(loss, base)
    torch.testing.assert_close(shuffled.log_probs.grad, plain.log_probs.grad[order])


def test_parts_add_up_to_the_whole():
    batch = reference.random_batch(10)
    whole = to_tensors(batch)
    surrogate(whole, len(batch), (0.05, None)).backward()
    total = 0.0
    for part in (slice(0, 2), slice(2, 3), slice(3, len(batch))):
        piece = whole.rows(part)
        loss = surrogate(piece, len(batch), (0.05, None))
        loss.backward()
        total += loss.item()
        torch.testing.assert_close(piece.log_probs.grad, whole.log_probs.grad[part], rtol=0, atol=0)
    assert total == pytest.approx(expected(batch, (0.05, None))[0], rel=1e-12)


def test_no_gradient_flows_through_the_advantages():
    batch = reference.random_batch(11)
    tensors = to_tensors(batch)
    tensors.advantages.requires_grad_()
    surrogate(tensors, len(batch)).backward()
    assert tensors.advantages.grad is None


def test_truncation_bounds_the_weight_and_survives_an_overflowing_ratio():
    # log rho = 200 overflows float32; with a loose threshold and a cap of 2 the weight is 2 and the gradient finite.
    log_probs = torch.tensor([[-1.0]], requires_grad=True)
    tensors = Tensors(log_probs, torch.tensor([[-201.0]]), torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool))
    loss = surrogate(tensors, 1, (1e9, None), ratio_truncation=2.0)
    loss.backward()
    assert loss.item() == pytest.approx(-2.0)
    assert log_probs.grad.item() == pytest.approx(-2.0)


def test_an_empty_batch_size_is_refused():
    with pytest.raises(ValueError, match="num_sequences: got 0"):
        surrogate(to_tensors(reference.random_batch(0)), 0)


def decoupled(tensors: Tensors, proximal: torch.Tensor, truncation=None, clip=None) -> torch.Tensor:
    kept = kept_tokens(tensors.response_mask, decide(tensors, 0.02, None).accepted)
    return decoupled_surrogate_tokens(
        tensors.log_probs,
        proximal,
        tensors.rollout_log_probs,
        tensors.advantages,
        kept,
        ratio_truncation=truncation,
        proximal_clip=clip,
    ).sum() / len(tensors.response_mask)


def test_three_policies_without_clip_and_truncation_are_the_plain_surrogate():
    batch = reference.random_batch(12)
    tensors = to_tensors(batch, filler=math.nan)
    proximal = tensors.rollout_log_probs + 0.1 * torch.randn_like(tensors.rollout_log_probs)
    loss = decoupled(tensors, proximal)
    loss.backward()
    value, gradient = expected(batch)
    assert loss.item() == pytest.approx(value, rel=1e-12)
    assert_gradient(tensors.log_probs, gradient)


def test_the_clip_is_on_the_proximal_ratio_and_the_truncation_on_the_weight():
    # r = pi_theta / pi_prox = e^0.5 = 1.65 clipped to 1.2; w = pi_prox / pi_roll = e truncated to 2; A = 1 and -1.
    log_probs = torch.tensor([[-1.0], [-1.0]], requires_grad=True)
    proximal, rollout = torch.tensor([[-1.5], [-1.5]]), torch.tensor([[-2.5], [-2.5]])
    kept = torch.ones(2, 1, dtype=torch.bool)
    losses = decoupled_surrogate_tokens(
        log_probs, proximal, rollout, torch.tensor([[1.0], [-1.0]]), kept, ratio_truncation=2.0, proximal_clip=0.2
    )
    losses.sum().backward()
    # the better action's gain is clipped and has no gradient; the worse action's loss is not
    assert losses.flatten().tolist() == pytest.approx([-2 * 1.2, 2 * math.exp(0.5)])
    assert log_probs.grad.flatten().tolist() == pytest.approx([0.0, 2 * math.exp(0.5)])


def odd_tokens() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log pi_theta, log pi_roll, A: excluded by theta, an overflow without advantage, one on policy, one below."""
    log_probs = torch.tensor([[-torch.inf, -1.0, -1.0, -1.2]], requires_grad=True)
    return log_probs, torch.tensor([[-1.0, -200.0, -1.0, -1.0]]), torch.tensor([[2.0, 0.0, 3.0, -1.0]])


@pytest.mark.parametrize("ratio_truncation", [None, 1.0, 1.5])
@pytest.mark.parametrize("advantage", [2.0, -2.0, 0.0])
def test_a_kept_token_that_theta_excludes_has_no_term_and_no_nan(ratio_truncation, advantage):
    log_probs, rollout, advantages = odd_tokens()
    advantages[0, 0] = advantage
    kept = torch.ones(1, 4, dtype=torch.bool)
    log_ratio = masked_log_ratio(log_probs, rollout, kept)
    tokens = masked_surrogate_tokens(log_ratio, advantages, kept, ratio_truncation=ratio_truncation)
    tokens.sum().backward()
    assert tokens[0, :2].tolist() == [0.0, 0.0]
    assert tokens[0, 2:].tolist() == pytest.approx([-3.0, math.exp(-0.2)])
    assert log_probs.grad[0].tolist() == pytest.approx([0.0, 0.0, -3.0, math.exp(-0.2)])


@pytest.mark.parametrize("ratio_truncation", [None, 1.0, 1.5])
def test_the_gradient_reaches_the_logits_of_an_excluded_token_without_nan(ratio_truncation):
    logits = torch.tensor([[[0.0, -torch.inf, 1.0], [0.5, 0.2, 0.1]]], requires_grad=True)
    log_probs = logits.log_softmax(-1)[..., 1]
    kept = torch.ones(1, 2, dtype=torch.bool)
    log_ratio = masked_log_ratio(log_probs, torch.full((1, 2), -1.0), kept)
    masked_surrogate_tokens(log_ratio, torch.ones(1, 2), kept, ratio_truncation=ratio_truncation).sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[0, 0] == 0).all()
    assert (logits.grad[0, 1] != 0).any()


@pytest.mark.parametrize("ratio_truncation", [None, 2.0])
@pytest.mark.parametrize("proximal_clip", [None, 0.2])
@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
@pytest.mark.parametrize(
    ("log_prob", "proximal", "rollout"),
    [
        (-math.inf, -1.0, -1.0),  # r = 0
        (-math.inf, -math.inf, -1.0),  # r = 0 / 0, w = 0
        (-1.0, -math.inf, -1.0),  # r = infinity, w = 0
        (-1.0, -300.0, -1.0),  # r overflows, w underflows
        (-1.0, -100.0, -100.0),  # r overflows
        (-math.inf, -1.0, -150.0),  # r = 0, w overflows
        (-150.0, -1.0, -150.0),  # the same, and rho = 1
    ],
)
def test_no_term_of_three_policies_is_nan(log_prob, proximal, rollout, advantage, proximal_clip, ratio_truncation):
    log_probs = torch.tensor([[log_prob, -1.0]], requires_grad=True)
    tokens = decoupled_surrogate_tokens(
        log_probs,
        torch.tensor([[proximal, -1.0]]),
        torch.tensor([[rollout, -1.0]]),
        torch.tensor([[advantage, 1.0]]),
        torch.ones(1, 2, dtype=torch.bool),
        ratio_truncation=ratio_truncation,
        proximal_clip=proximal_clip,
    )
    tokens.sum().backward()
    assert torch.isfinite(tokens).all()
    assert torch.isfinite(log_probs.grad).all()
    if rollout > -150 and (log_prob == -math.inf or proximal < -200 or advantage == 0):
        # PPO's clip holds a loss at r = 1 - c, without a gradient
        held = advantage < 0 and proximal == -1 and proximal_clip is not None
        assert tokens[0, 0].item() == pytest.approx(0.8 if held else 0)
        assert log_probs.grad[0, 0] == 0
    assert tokens[0, 1] == log_probs.grad[0, 1] == -1
