"""Intervals of functions of means, by the Bayesian bootstrap: the sequences get random weights that add up to 1."""

import torch

NUM_RESAMPLES = 200
LEVEL = 0.9
"""Share of the resamples inside an interval."""


def resampled_means(rows: torch.Tensor, num_resamples: int = NUM_RESAMPLES) -> torch.Tensor:
    """Return weighted means of the rows, with weights that are exponential and normalised (Dirichlet of ones).

    The weights are the same in every call and belong to the rows in the order of their values: the result does not
    depend on the order of the rows, and no other random number is drawn.

    Args:
        rows: one a sequence, 1 or more, shape (..., sequences, columns).
        num_resamples: how many means.

    Returns:
        Float64, shape (..., num_resamples, columns).

    Reference:
        Rubin, The Bayesian Bootstrap, Annals of Statistics 9 (1981).
    """
    rows = rows.double()
    for column in reversed(range(rows.shape[-1])):
        order = rows[..., column].argsort(dim=-1, stable=True)
        rows = rows.gather(-2, order.unsqueeze(-1).expand_as(rows))
    generator = torch.Generator().manual_seed(0)
    weights = torch.empty(num_resamples, rows.shape[-2], dtype=torch.float64).exponential_(generator=generator)
    weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights.to(rows.device) @ rows


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
