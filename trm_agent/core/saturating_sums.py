"""Sums over the positions of a sequence whose terms stop at 1, in closed form: any length costs the same."""

import functools

import torch

_TABLE = 64
_ZETA_MINUS_HALF = -0.2078862249773545660173


def sum_linear(last: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """Return sum_{k=0..last} min(1, k slope).

    Args:
        last: whole numbers of 0 or more, float64.
        slope: 0 or more, float64, shape of `last`.

    Returns:
        Shape of `last`; NaN where an argument is NaN.
    """
    slope = slope.clamp(max=1.0)
    knee = torch.minimum(last, (1 / slope).floor())
    return slope * knee * (knee + 1) / 2 + (last - knee)


def sum_sqrt(last: torch.Tensor, kl: torch.Tensor) -> torch.Tensor:
    """Return sum_{k=0..last} min(1, sqrt(k kl / 2)).

    Args:
        last: whole numbers of 0 or more, float64.
        kl: 0 or more, infinity included, float64, shape of `last`, nats.

    Returns:
        Shape of `last`; NaN where an argument is NaN.
    """
    half = kl.clamp(max=2.0) / 2
    knee = torch.minimum(last, (1 / half).floor())
    return half.sqrt() * _sum_of_roots(knee) + (last - knee)


def _sum_of_roots(last: torch.Tensor) -> torch.Tensor:
    """Return sum_{k=1..last} sqrt(k): a table, then Euler-Maclaurin, of which the next term is below 1e-15 from 64 on.

    sum = 2/3 n^(3/2) + n^(1/2)/2 + zeta(-1/2) + n^(-1/2)/24 - n^(-5/2)/1920 + n^(-9/2)/9216 - ...
    """
    small = _table(last.device)[last.nan_to_num(0.0).clamp(min=0, max=_TABLE).long()]
    n = last.clamp(min=_TABLE)
    # all terms but zeta as multiples of a root: a power of its own for each would take most of the time
    inverse = 1 / n
    square = inverse.square()
    tail = inverse * (1 / 24 - square * (1 / 1920 - square / 9216))
    return torch.where(last < _TABLE, small, n.sqrt() * (n * 2 / 3 + 0.5 + tail) + _ZETA_MINUS_HALF)


@functools.cache
def _table(device: torch.device) -> torch.Tensor:
    """Return the sums up to `_TABLE`."""
    return torch.arange(_TABLE + 1, dtype=torch.float64, device=device).sqrt().cumsum(dim=0)
