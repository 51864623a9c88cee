import math

import pytest
import torch

from trm_agent.core.divergences import masked_log_ratio
from trm_agent.core.token_masks import prefix_budget_mask, token_mask

from . import reference
from .batches import to_tensors


def test_a_token_mask_keeps_the_tokens_inside():
    mask = torch.tensor([[True, True, True, False]])
    assert token_mask(torch.tensor([[0.1, 0.3, math.nan, 0.1]]), mask, 0.2).tolist() == [[True, False, False, False]]


@pytest.mark.parametrize(("min_weight", "budget"), [(0.8, 0.02), (0.5, 0.001), (1.0, None), (0.3, 0.5)])
@pytest.mark.parametrize("threshold", [0.02, 0.2])
@pytest.mark.parametrize("adaptive", [True, False])
def test_the_prefix_budget_equals_the_loop(min_weight, budget, threshold, adaptive):
    kept_frac = []
    for seed in range(20):
        batch = reference.random_batch(seed, longest=30, spread=0.6)
        tensors = to_tensors(batch, filler=math.nan)
        log_ratio = masked_log_ratio(tensors.log_probs, tensors.rollout_log_probs, tensors.response_mask).detach()
        token_tv = (tensors.log_probs.exp() - tensors.rollout_log_probs.exp()).abs().detach()
        kept = prefix_budget_mask(
            token_tv,
            log_ratio,
            tensors.advantages,
            tensors.response_mask,
            threshold=threshold,
            min_position_weight=min_weight,
            prefix_budget=budget,
            adaptive_budget=adaptive,
        )
        for i in range(len(batch)):
            places = [t for t, sampled in enumerate(batch.sampled[i]) if sampled]
            ratios = [math.exp(batch.log_probs[i][t] - batch.rollout_log_probs[i][t]) for t in places]
            distances = [abs(math.exp(batch.log_probs[i][t]) - math.exp(batch.rollout_log_probs[i][t])) for t in places]
            advantages = [batch.advantages[i][t] for t in places]
            given = (distances, ratios, advantages, threshold, min_weight, budget, adaptive)
            expected = reference.prefix_budget_kept(*given)
            assert kept[i].nonzero().flatten().tolist() == [t for t, keep in zip(places, expected, strict=True) if keep]
            kept_frac += expected
    assert 0 < sum(kept_frac) < len(kept_frac)


def test_without_budget_and_weights_it_is_a_plain_directional_mask():
    # A > 0: a ratio above 1 moves away and needs D <= 0.1; a ratio below 1 moves towards and stays
    log_ratio = torch.tensor([[0.5, 0.5, -0.5]])
    token_tv = torch.tensor([[0.05, 0.3, 0.3]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    kept = prefix_budget_mask(token_tv, log_ratio, torch.ones(1, 3), mask, threshold=0.1)
    assert kept.tolist() == [[True, False, True]]
