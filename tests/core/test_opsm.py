import math

import pytest
import torch

from trm_agent.core.divergences import masked_log_ratio
from trm_agent.core.losses import kept_tokens, masked_surrogate_tokens
from trm_agent.core.opsm import off_policy_sequence_mask, unclipped_tokens

from . import reference
from .batches import to_tensors

DELTA, CLIP = 1e-3, 0.2


def several_advantages(seed: int) -> reference.Batch:
    """Sequences far off on both sides, half of them with an advantage for each token."""
    batch = reference.random_batch(seed, num_sequences=60, spread=0.7)
    noise = torch.randn(60, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
    for row, values in enumerate(batch.advantages):
        if row % 2:
            batch.advantages[row] = [value + more for value, more in zip(values, noise[row], strict=False)]
    return batch


@pytest.mark.parametrize(("delta", "clip"), [(DELTA, CLIP), (0.05, 0.1), (DELTA, None)])
def test_the_kept_tokens_equal_the_loops(delta, clip):
    counted = []
    for seed in range(5):
        batch = several_advantages(seed)
        tensors = to_tensors(batch, filler=math.nan)
        log_ratio = masked_log_ratio(tensors.log_probs, tensors.rollout_log_probs, tensors.response_mask)
        given = log_ratio, tensors.advantages, tensors.response_mask
        kept = kept_tokens(tensors.response_mask, off_policy_sequence_mask(*given, delta))
        assert not kept.requires_grad
        if clip is not None:
            kept &= unclipped_tokens(*given, clip)
        for row in range(len(batch)):
            places = [t for t, sampled in enumerate(batch.sampled[row]) if sampled]
            if not places:
                assert not kept[row].any()
                continue
            ratios = [math.exp(batch.log_probs[row][t] - batch.rollout_log_probs[row][t]) for t in places]
            expected = reference.opsm_kept(ratios, [batch.advantages[row][t] for t in places], delta, clip)
            wanted = [t for t, stays in zip(places, expected, strict=True) if stays]
            assert kept[row].nonzero().flatten().tolist() == wanted
            counted += expected
    assert 0.05 < sum(counted) / len(counted) < 0.95


def test_what_the_clip_keeps_has_ppos_gradient_and_lacks_the_constants_of_the_clipped_tokens():
    batch = several_advantages(7)
    tensors, own = to_tensors(batch), to_tensors(batch)
    ratio = (tensors.log_probs - tensors.rollout_log_probs).exp()
    terms = torch.minimum(ratio * tensors.advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * tensors.advantages)
    ppo = -terms[tensors.response_mask].sum()
    ppo.backward()

    log_ratio = masked_log_ratio(own.log_probs, own.rollout_log_probs, own.response_mask)
    kept = unclipped_tokens(log_ratio, own.advantages, own.response_mask, CLIP)
    loss = masked_surrogate_tokens(log_ratio, own.advantages, kept).sum()
    loss.backward()
    torch.testing.assert_close(own.log_probs.grad, tensors.log_probs.grad, rtol=1e-12, atol=1e-14)

    clipped = own.response_mask & ~kept
    above, below = clipped & (own.advantages > 0), clipped & (own.advantages < 0)
    assert min(above.sum(), below.sum()) > 10
    constants = (1 + CLIP) * own.advantages[above].sum() + (1 - CLIP) * own.advantages[below].sum()
    assert loss.item() == pytest.approx((ppo + constants).item(), rel=1e-12)


def test_a_ratio_at_the_edge_of_the_clip_is_kept():
    edges = torch.tensor([[math.log1p(CLIP), math.log1p(-CLIP)]], dtype=torch.float64)
    mask = torch.ones_like(edges, dtype=torch.bool)
    beyond = edges * (1 + 1e-12)
    for advantage, kept_beyond in ((1.0, [[False, True]]), (-1.0, [[True, False]])):
        advantages = torch.full_like(edges, advantage)
        assert unclipped_tokens(edges, advantages, mask, CLIP).all()
        assert unclipped_tokens(beyond, advantages, mask, CLIP).tolist() == kept_beyond


def test_the_mean_advantage_decides_on_a_sequence_whose_tokens_have_several():
    # log(roll / theta) is 1 at each token; the means are -1/6 and +1/6, and the last token is a tool's
    log_ratio = torch.full((2, 4), -1.0)
    advantages = torch.tensor([[-0.5, 0.25, -0.25, 9.0], [0.5, -0.25, 0.25, -9.0]])
    mask = torch.tensor([[True, True, True, False]] * 2)
    assert off_policy_sequence_mask(log_ratio, advantages, mask, 0.1).tolist() == [False, True]
    assert off_policy_sequence_mask(log_ratio, advantages, mask, 1.0).tolist() == [True, True]


def test_a_mean_that_is_no_number_is_outside_and_a_sequence_without_a_token_inside():
    log_ratio = torch.tensor([[math.nan, 0.0], [math.inf, -math.inf], [0.0, 0.0]])
    mask = torch.tensor([[True, True], [True, True], [False, False]])
    assert off_policy_sequence_mask(log_ratio, torch.full((3, 2), -1.0), mask, 1.0).tolist() == [False, False, True]
