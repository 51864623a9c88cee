"""|Error| <= E_roll[W], the bound of the length-neutral criterion, by enumeration."""

import pytest
import torch

from trm_agent.core.bounds import tail_weights
from trm_agent.core.masks import length_neutral_statistic

from .trees import ROUNDING, Enumeration, all_trees, enumerate_trees, largest_share, random_policies


def length_neutral_sums(trees: Enumeration, *, max_tv: bool) -> torch.Tensor:
    """E_roll[W] of each tree, with eps given or by Pinsker; (batch,)."""
    remaining = torch.arange(trees.horizon - 1, -1, -1, dtype=torch.float64)
    eps = trees.max_tv.unsqueeze(-1) if max_tv else None
    weights = tail_weights(remaining, max_kl=trees.max_kl.unsqueeze(-1), max_tv=eps)
    sums = ((torch.stack(trees.ratios, -1) - 1).abs() * weights.unsqueeze(1)).sum(-1)
    return (trees.roll * sums).sum(-1)


@pytest.mark.parametrize("max_tv", [False, True])
def test_the_length_neutral_sum_bounds_the_error_and_half_of_it_does_not(max_tv):
    # the paper has 2 E_roll[W]: a quarter of that is half of ours
    errors = [trees.worst_error() for trees in all_trees()]
    bounds = [length_neutral_sums(trees, max_tv=max_tv) for trees in all_trees()]
    for error, bound in zip(errors, bounds, strict=True):
        assert (error <= bound + ROUNDING).all()
    assert largest_share(errors, [bound / 2 for bound in bounds]) > 1


def test_the_length_neutral_sum_is_that_of_the_criterion():
    trees = enumerate_trees(*random_policies(3, 4, 4, torch.Generator().manual_seed(5)))
    for row in (0, 2):
        log_ratio = torch.stack([rho[row] for rho in trees.ratios], -1).log()
        delta, eps = trees.max_kl[row].item(), trees.max_tv[row].item()
        mask = torch.ones_like(log_ratio, dtype=torch.bool)
        found = length_neutral_statistic(log_ratio, mask, max_token_kl=delta, max_token_tv=eps).upper
        num_left = torch.arange(3, -1, -1, dtype=torch.float64)
        z = torch.minimum(num_left * eps, (num_left * delta / 2).sqrt()).clamp(max=1).sum()
        expected = (trees.roll[row] * found).sum() * z
        assert length_neutral_sums(trees, max_tv=True)[row].item() == pytest.approx(expected.item(), rel=1e-9)
