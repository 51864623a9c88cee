"""How long a sequence may be before the error bounds say nothing."""

import torch

from trm_agent.core.bound_inputs import Numbers, as_float64
from trm_agent.core.bounds import error_bounds, pinsker

_CUTS = 1023


def effective_horizon(
    max_kl: Numbers, avg_kl: Numbers | None = None, *, max_tv: Numbers | None = None, largest_bound: float = 1.0
) -> torch.Tensor:
    """Return the longest horizon at which B* still says something.

    T_eff = max{T : B*(T) <= largest_bound}   with   KLseq = T avg_kl,   TVseq = min(1, T eps, sqrt(T avg_kl / 2))

    B* grows with T and is 0 at T = 1, so T_eff is at least 1. Beyond it a surrogate must exceed the largest reward, 1,
    before the bound promises an improvement.

    Args:
        max_kl: see `error_bounds`.
        avg_kl: KLseq / T, nats per token; None takes `max_kl`, which is always safe.
        max_tv: see `error_bounds`; None derives it by Pinsker.
        largest_bound: what B* may be; 1 is the largest reward.

    Returns:
        Whole numbers, float64, broadcast shape; infinity if it exceeds 2^53, NaN if an argument is NaN.

    Raises:
        ValueError: `largest_bound` is not 0 or more, a Python number is out of range, or shapes do not fit together.
    """
    if not largest_bound >= 0:
        raise ValueError(f"largest_bound: got {largest_bound!r}; allowed: 0 or more; 1 is the largest reward")
    eps = pinsker(max_kl) if max_tv is None else max_tv
    max_kl, avg_kl, eps = as_float64(max_kl=max_kl, avg_kl=max_kl if avg_kl is None else avg_kl, max_tv=eps)

    columns = torch.stack(torch.broadcast_tensors(max_kl, avg_kl, eps)).unsqueeze(-1)
    shape = columns.shape[1:-1]
    columns = columns.view(3, -1, 1)

    def unified(horizon: torch.Tensor) -> torch.Tensor:
        flat, kl, kl_a_token, tv = (values.expand_as(horizon).flatten() for values in (horizon, *columns))
        seq_tv = torch.minimum(pinsker(flat * kl_a_token), (flat * tv).clamp(max=1.0))
        bounds = error_bounds(flat, kl, flat * kl_a_token, max_tv=tv, seq_tv=seq_tv)
        return bounds.unified.view_as(horizon)

    def narrowed(low: torch.Tensor, high: torch.Tensor, cuts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inside = unified(cuts) <= largest_bound
        low = torch.where(inside, cuts, low).amax(dim=-1, keepdim=True)
        return low, torch.where(inside, high, cuts).amin(dim=-1, keepdim=True)

    # bisection with many cuts at a time: first by powers of two, then evenly
    powers = 2.0 ** torch.arange(54, device=columns.device, dtype=torch.float64)
    low, high = torch.ones_like(columns[0]), torch.full_like(columns[0], torch.inf)
    low, high = narrowed(low, high, powers.expand(len(low), -1))
    missing, unbounded = columns.isnan().any(dim=0), high.isinf()
    fractions = torch.arange(1, _CUTS + 1, dtype=torch.float64, device=low.device) / (_CUTS + 1)
    while bool(((high - low > 1) & ~missing & ~unbounded).any()):
        low, high = narrowed(low, high, (low + (high - low) * fractions).floor())
    return low.masked_fill(unbounded, torch.inf).masked_fill(missing, torch.nan).view(shape)
