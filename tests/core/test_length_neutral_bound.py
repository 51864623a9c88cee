"""What the length-neutral sum W bounds, by enumeration.

W = sum_t |rho_t - 1| w(T - t),   w(k) = min(1, k eps, sqrt(k delta / 2))

With T the longest length of the tree |Error| <= E_roll[W]. With T the length of the sequence itself, which the
criterion takes, |Error| <= e E_roll[W]: a sequence that ends early knows nothing of longer ones from the same context.
"""

import math

import pytest
import torch

from trm_agent.core.bounds import tail_weights
from trm_agent.core.masks import length_neutral_statistic

from .trees import (
    ROUNDING,
    SIZES,
    Enumeration,
    all_trees,
    ended_trees,
    enumerate_trees,
    has_ended,
    largest_share,
    lengths_with_ends,
    random_policies,
    with_ends,
)


def weights_after(trees: Enumeration, num_tokens: torch.Tensor, *, max_tv: bool) -> torch.Tensor:
    """w of so many tokens, with eps given or by Pinsker, of each tree; (batch, *num_tokens)."""
    column = (-1, *[1] * num_tokens.ndim)
    eps = trees.max_tv.view(column) if max_tv else None
    return tail_weights(num_tokens.double().unsqueeze(0), max_kl=trees.max_kl.view(column), max_tv=eps)


def length_neutral_sums(trees: Enumeration, lengths: torch.Tensor | None = None, *, max_tv: bool) -> torch.Tensor:
    """E_roll[W] of each tree, with the length of every trajectory, (leaves,), or the longest; (batch,)."""
    lengths = torch.full(trees.roll.shape[1:], trees.horizon) if lengths is None else lengths
    remaining = (lengths.unsqueeze(-1) - torch.arange(1, trees.horizon + 1)).clamp(min=0)
    weights = weights_after(trees, remaining, max_tv=max_tv)
    return (trees.roll * ((torch.stack(trees.ratios, -1) - 1).abs() * weights).sum(-1)).sum(-1)


def chain(*probabilities: float) -> list[torch.Tensor]:
    """A policy over two tokens that takes the first with these probabilities; the second ends the sequence."""
    tokens = [torch.tensor([p, 1 - p], dtype=torch.float64) for p in probabilities]
    return with_ends([each.expand(1, 2**depth, 2) for depth, each in enumerate(tokens)])


@pytest.mark.parametrize("max_tv", [False, True])
def test_with_the_longest_length_the_sum_bounds_the_error_and_half_of_it_does_not(max_tv):
    # the paper has 2 E_roll[W]: a quarter of that is half of ours
    errors = [trees.worst_error() for trees in all_trees()]
    bounds = [length_neutral_sums(trees, max_tv=max_tv) for trees in all_trees()]
    for error, bound in zip(errors, bounds, strict=True):
        assert (error <= bound + ROUNDING).all()
    assert largest_share(errors, [bound / 2 for bound in bounds]) > 1


def test_with_their_own_lengths_e_times_the_sum_bounds_the_error_and_the_sum_alone_does_not():
    errors = [trees.worst_error() for trees in ended_trees()]
    bounds = [
        length_neutral_sums(trees, lengths_with_ends(*size), max_tv=True)
        for size, trees in zip(SIZES, ended_trees(), strict=True)
    ]
    for error, bound in zip(errors, bounds, strict=True):
        assert (error <= math.e * bound + ROUNDING).all()
    assert largest_share(errors, bounds) > 1.1


def test_a_short_sequence_knows_nothing_of_the_longer_ones_from_its_contexts():
    # After a first token that roll hardly takes most sequences end at the second, with one more token to go for w_1;
    # theta goes on to a third. The error is above E_roll[W] with their own lengths, and within it with T = 3.
    trees = enumerate_trees(chain(0.01, 0.26, 0.26), chain(0.6, 0.99, 0.99))
    lengths = lengths_with_ends(2, 3)
    assert lengths.tolist() == [3, 3, 2, 2, 1, 1, 1, 1]
    assert trees.max_tv.item() == pytest.approx(0.73)
    own, longest = (length_neutral_sums(trees, found, max_tv=True).item() for found in (lengths, None))
    # roll's paths: 0.0074 of two tokens with 59 * 0.73, 0.0026 of three with 59 + 2.8077 * 0.73, of one token with 0
    assert own == pytest.approx(0.0074 * 59 * 0.73 + 0.0026 * (59 + (0.99 / 0.26 - 1) * 0.73), rel=1e-9)
    # of the path of three tokens 0 alone: 0.58806 - 0.000676 - (0.59 * 0.26^2 + 2 * 0.01 * 0.73 * 0.26)
    assert trees.worst_error().item() == pytest.approx(0.543704, abs=1e-6)
    assert own < 0.48 < 0.54 < trees.worst_error().item() < longest < 1.2
    assert trees.worst_error().item() < math.e * own


@pytest.mark.parametrize("max_tv", [False, True])
def test_the_futures_differ_by_at_most_e_times_the_mean_weight_of_what_is_left(max_tv):
    # TV <= e E_roll[w(N)], N the tokens that are left; with one length TV <= w(N)
    distances, bounds = [], []
    for size, trees in zip(SIZES, ended_trees(), strict=True):
        weights = weights_after(trees, lengths_with_ends(*size), max_tv=max_tv)
        distances.append((trees.roll - trees.theta).abs().sum(-1) / 2)
        bounds.append((trees.roll * weights).sum(-1))
        assert (distances[-1] <= math.e * bounds[-1] + ROUNDING).all()
    assert largest_share(distances, bounds) > (1.2 if max_tv else 0.99)


def test_the_length_neutral_sum_is_that_of_the_criterion():
    policies = random_policies(3, 4, 4, torch.Generator().manual_seed(5))
    trees, lengths = enumerate_trees(*map(with_ends, policies)), lengths_with_ends(3, 4)
    mask = torch.arange(4) < lengths.unsqueeze(-1)
    # the tokens before a sequence's end are those whose context has not ended
    depths = [~has_ended(3, depth).repeat_interleave(3 ** (4 - depth)) for depth in range(4)]
    assert torch.equal(mask, torch.stack(depths, -1))
    for row in (0, 2):
        log_ratio = torch.stack([rho[row] for rho in trees.ratios], -1).log()
        delta, eps = trees.max_kl[row].item(), trees.max_tv[row].item()
        found = length_neutral_statistic(log_ratio, mask, max_token_kl=delta, max_token_tv=eps).upper
        z = [sum(min(1, k * eps, math.sqrt(k * delta / 2)) for k in range(length)) for length in lengths.tolist()]
        expected = (trees.roll[row] * found * torch.tensor(z, dtype=torch.float64)).sum()
        assert length_neutral_sums(trees, lengths, max_tv=True)[row].item() == pytest.approx(expected.item(), rel=1e-9)
