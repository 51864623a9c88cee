"""Intervals of functions of means, by the Bayesian bootstrap: what is drawn alone gets random weights that add up to 1.

Sequences of one prompt are not drawn alone: an expectation over rollouts is one over prompts too, and they share that
draw. So groups of sequences get the weights, and a mean is a ratio of two sums over groups.
"""

import torch

NUM_RESAMPLES = 200
LEVEL = 0.9
"""Share of the resamples inside an interval."""


def group_means(rows: torch.Tensor, groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean of each group's rows, shape (groups, columns), and the sizes of the groups, shape (groups,).

    Args:
        rows: one a sequence, float64, shape (sequences, columns).
        groups: int64, equal for the sequences of one group, shape (sequences,).
    """
    _, inverse, sizes = groups.unique(return_inverse=True, return_counts=True)
    sums = rows.new_zeros(len(sizes), rows.shape[-1]).index_add_(0, inverse, rows)
    return sums / sizes.unsqueeze(-1), sizes


def resampled_means(
    rows: torch.Tensor, sizes: torch.Tensor | None = None, num_resamples: int = NUM_RESAMPLES
) -> torch.Tensor:
    """Return weighted means of the rows: exponential weights times the sizes, normalised (without sizes Dirichlet's).

    sum_g e_g n_g x_g / sum_g e_g n_g   of x_g, the mean of n_g sequences, is the ratio of the groups' weighted sums.

    The weights are the same in every call and belong to the rows in the order of their values: the result does not
    depend on the order of the rows, and no other random number is drawn.

    Args:
        rows: one a group, 1 or more, shape (..., groups, columns).
        sizes: sequences in each group, shape (groups,); None for one each.
        num_resamples: how many means.

    Returns:
        Float64, shape (..., num_resamples, columns).

    Reference:
        Rubin, The Bayesian Bootstrap, Annals of Statistics 9 (1981).
    """
    num_groups, num_columns = rows.shape[-2:]
    sizes = torch.ones(num_groups, device=rows.device) if sizes is None else sizes
    rows = torch.cat([rows.double(), sizes.double().unsqueeze(-1).expand(*rows.shape[:-1], 1)], dim=-1)
    for column in reversed(range(rows.shape[-1])):
        order = rows[..., column].argsort(dim=-1, stable=True)
        rows = rows.gather(-2, order.unsqueeze(-1).expand_as(rows))
    generator = torch.Generator().manual_seed(0)
    weights = torch.empty(num_resamples, num_groups, dtype=torch.float64).exponential_(generator=generator)
    weights = weights.to(rows.device) * rows[..., num_columns].unsqueeze(-2)
    return weights / weights.sum(dim=-1, keepdim=True) @ rows[..., :num_columns].contiguous()


def interval(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the interval that holds `LEVEL` of the resampled values, as much outside on either side.

    Args:
        values: one a resample, shape (..., num_resamples).

    Returns:
        Its two ends, shape (...).
    """
    outside = (1 - LEVEL) / 2
    ordered = values.sort(dim=-1).values
    last = values.shape[-1] - 1
    return ordered[..., round(outside * last)], ordered[..., round((1 - outside) * last)]
