"""Reductions over the tokens of each sequence that never touch what the mask excludes.

`torch.where` and not multiplication: NaN or infinity in padding times zero is NaN.
"""

import torch


def masked_sum(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Sum each row over the positions where the mask is True; 0 for an empty row.

    Args:
        values: shape (batch, response_length).
        mask: bool, shape (batch, response_length).

    Returns:
        Shape (batch,).
    """
    return torch.where(mask, values, 0.0).sum(dim=-1)


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average each row over the positions where the mask is True; 0 for an empty row.

    Args:
        values: shape (batch, response_length).
        mask: bool, shape (batch, response_length).

    Returns:
        Shape (batch,).
    """
    return masked_sum(values, mask) / mask.sum(dim=-1).clamp(min=1)


def masked_max(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Take each row's largest value where the mask is True; -infinity for an empty row, NaN if one is NaN.

    Args:
        values: shape (batch, response_length).
        mask: bool, shape (batch, response_length).

    Returns:
        Shape (batch,).
    """
    if values.shape[-1] == 0:
        return values.new_full(values.shape[:-1], -torch.inf)
    return torch.where(mask, values, -torch.inf).amax(dim=-1)


def masked_min(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Take each row's smallest value where the mask is True; +infinity for an empty row, NaN if one is NaN.

    Args:
        values: shape (batch, response_length).
        mask: bool, shape (batch, response_length).

    Returns:
        Shape (batch,).
    """
    return -masked_max(-values, mask)


def sum_of_squares(values: torch.Tensor) -> torch.Tensor:
    """Sum the squares of each row.

    Args:
        values: floats, shape (batch, length).

    Returns:
        Float64, shape (batch,).
    """
    return torch.linalg.vector_norm(values, dim=-1).double().square()


def count(mask: torch.Tensor) -> torch.Tensor:
    """Count the True of each row.

    Args:
        mask: bool, shape (batch, length).

    Returns:
        int32, shape (batch,).
    """
    # of bytes: torch sums them in half the time that it takes for truth values
    return mask.view(torch.uint8).sum(dim=-1, dtype=torch.int32)


def occurs(mask: torch.Tensor) -> torch.Tensor:
    """Return which rows have a True.

    Args:
        mask: bool, shape (batch, length).

    Returns:
        bool, shape (batch,).
    """
    # of bytes: torch's own `any` takes many times as long for a long row
    return mask.view(torch.uint8).amax(dim=-1).bool() if mask.shape[-1] else mask.any(dim=-1)


def rows_where(condition: torch.Tensor) -> torch.Tensor:
    """Return the sequences that must be looked at more closely: on a device all, which spares a synchronisation.

    Args:
        condition: bool, shape (batch,).

    Returns:
        int64, their numbers.
    """
    if condition.device.type == "cpu":
        return condition.nonzero().squeeze(-1)
    return torch.arange(len(condition), device=condition.device)
