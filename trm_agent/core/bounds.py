"""How far the surrogate can be from the truth: the error bounds of Trust Region Masking.

Error = J(theta) - J(roll) - L'   with   L' = E_roll[R sum_t (rho_t - 1)],   R in [0, 1]

These are the paper's values; half of each holds too (`halved`, ours). T is the largest number of tokens that a sequence
can have: one that has ended goes on without a divergence. Every bound assumes two things.
(1) `max_kl` and `max_tv` hold in *every* context that the rollout policy can reach, sampled or not, with divergences
    over the full vocabulary.
(2) Every token that theta can produce in such a context the rollout policy can produce too. Otherwise, for instance
    when sampling with top-p, rho never sees the extra tokens of theta, and no bound holds for L'.

`Numbers` are Python numbers, or tensors of shape () or (batch,) on one device; all are broadcast and computed in
float64, in closed form for any horizon. NaN gives NaN. A value outside its range raises as a Python number and gives
NaN in a tensor.
"""

import math
from dataclasses import dataclass, fields

import torch

from trm_agent.core.bound_inputs import Numbers, as_float64
from trm_agent.core.saturating_sums import sum_linear, sum_sqrt

_CHUNK = 2**20


@dataclass(frozen=True)
class ErrorBounds:
    """Upper bounds on |Error|, float64, all of one shape: () or (batch,)."""

    classical: torch.Tensor
    """2 T (T-1) eps^2, or T (T-1) delta where eps is not given: quadratic in the horizon, uncapped."""
    coupling: torch.Tensor
    """4 eps sum_t min(1, (t-1) eps)."""
    pinsker_marginal_kl: torch.Tensor
    """4 sqrt(delta/2) sum_t min(1, sqrt((t-1) delta/2)): no total-variation distance needed."""
    pinsker_marginal_tv: torch.Tensor
    """4 eps sum_t min(1, sqrt((t-1) delta/2))."""
    mixed_kl: torch.Tensor
    """4 T sqrt(delta/2) sqrt(KLseq/2): the divergence of whole sequences in place of the sum."""
    mixed_tv: torch.Tensor
    """4 T eps TVseq."""
    adaptive: torch.Tensor
    """4 sum_t Dbar_t min(1, (T-t) eps, sqrt((T-t) delta/2)), the hybrid form."""
    unified: torch.Tensor
    """B*, the least of the others but classical, which is never below coupling."""


def pinsker(kl: Numbers) -> torch.Tensor:
    """Bound a total-variation distance by min(1, sqrt(KL / 2)).

    Args:
        kl: Kullback-Leibler divergence, any `Numbers`, nats; infinity is allowed.

    Returns:
        Float64, shape of `kl`.
    """
    return _pinsker(*as_float64(kl=kl))


def classical_bound(horizon: Numbers, max_tv: Numbers) -> torch.Tensor:
    """Return 2 T (T-1) eps^2.

    Arguments as in `error_bounds`. Reference: arXiv:2512.23075v4, Classical.
    """
    horizon, max_tv = as_float64(horizon=horizon, max_tv=max_tv)
    return 2 * horizon * (horizon - 1) * max_tv.square()


def coupling_bound(horizon: Numbers, max_tv: Numbers) -> torch.Tensor:
    """Return 4 min(1, eps) sum_{t=1..T} min(1, (t-1) eps).

    Arguments as in `error_bounds`. Reference: arXiv:2512.23075v4, Coupling.
    """
    return _coupling(*as_float64(horizon=horizon, max_tv=max_tv))


def pinsker_marginal_bound(horizon: Numbers, max_tv: Numbers, max_kl: Numbers) -> torch.Tensor:
    """Return 4 min(1, eps) sum_{t=1..T} min(1, sqrt((t-1) delta / 2)).

    With eps = `pinsker(max_kl)` this is the KL form. Arguments as in `error_bounds`.
    Reference: arXiv:2512.23075v4, Pinsker-Marginal KL and TV.
    """
    horizon, max_tv, max_kl = as_float64(horizon=horizon, max_tv=max_tv, max_kl=max_kl)
    return 4 * max_tv.clamp(max=1.0) * sum_sqrt((horizon - 1).clamp(min=0), max_kl)


def pinsker_marginal_integral(horizon: Numbers, max_tv: Numbers, max_kl: Numbers) -> torch.Tensor:
    """Bound |Error| like `pinsker_marginal_bound`, with the sum replaced by the integral above it: the paper's numbers.

    bound = 4 min(1, eps) int_0^T min(1, sqrt(x delta / 2)) dx,   which is 4/3 T^{3/2} delta for small T delta

    Args:
        horizon: T.
        max_tv: eps.
        max_kl: delta, nats.

    Returns:
        Float64, broadcast shape; never below the sum.

    Reference:
        arXiv:2512.23075v4, Table 1 prints this form.
    """
    horizon, max_tv, max_kl = as_float64(horizon=horizon, max_tv=max_tv, max_kl=max_kl)
    # clamped: an infinite delta times a knee at 0 would be NaN
    max_kl = max_kl.clamp(max=torch.finfo(torch.float64).max)
    knee = torch.minimum(horizon, 2 / max_kl)
    # int_0^k sqrt(x d / 2) dx = 2/3 k sqrt(k d / 2); 0 where d is 0
    rising = torch.where(max_kl > 0, 2 / 3 * knee * (knee * max_kl / 2).clamp(max=1.0).sqrt(), 0.0 * max_kl)
    return 4 * max_tv.clamp(max=1.0) * (rising + (horizon - knee))


def mixed_bound(horizon: Numbers, max_tv: Numbers, seq_tv: Numbers) -> torch.Tensor:
    """Return 4 T min(1, eps) min(1, TVseq).

    With both from `pinsker` this is the KL form. Arguments as in `error_bounds`.
    Reference: arXiv:2512.23075v4, Mixed KL and TV.
    """
    return _mixed(*as_float64(horizon=horizon, max_tv=max_tv, seq_tv=seq_tv))


def tail_weights(
    num_remaining: torch.Tensor, *, max_kl: torch.Tensor | None = None, max_tv: torch.Tensor | None = None
) -> torch.Tensor:
    """Bound by how much the two policies can differ after token t.

    w_t = min(1, (T-t) eps, sqrt((T-t) delta / 2)), and 0 at the last token; what is not given is left out.

    Args:
        num_remaining: T - t, how many tokens may follow at most, whole numbers of 0 or more, floats, any shape.
        max_kl: delta, floats, broadcasts with `num_remaining`, nats.
        max_tv: eps, floats, broadcasts with `num_remaining`.

    Returns:
        Shape of the broadcast arguments, from 0 to 1.

    Reference:
        arXiv:2512.23075v4, adaptive bounds and LN-TRM's token weights.
    """
    weights = num_remaining.clamp(max=1.0)
    if max_tv is not None:
        weights = torch.minimum(weights, num_remaining * max_tv.clamp(max=1.0))
    if max_kl is not None:
        # clamped first: 0 remaining tokens times an infinite delta would be NaN
        weights = torch.minimum(weights, (num_remaining * max_kl.clamp(max=2.0) / 2).sqrt())
    return weights


def adaptive_bound(
    mean_tv: torch.Tensor, horizon: Numbers, *, max_kl: Numbers = math.inf, max_tv: Numbers = 1.0
) -> torch.Tensor:
    """Bound |Error| by what the policies differ on average, position by position.

    bound = 4 sum_{t=1..T} Dbar_t w_t,   w_t = min(1, (T-t) eps, sqrt((T-t) delta / 2))

    With `max_kl` alone this is Adaptive KL, with `max_tv` alone Adaptive TV, with both the hybrid.

    Args:
        mean_tv: Dbar_t = E_roll[TV(c_t)], a sequence that has ended counting 0, shape (length,) or (batch, length);
            what stands after T is not read.
        horizon: T, at most `length`.
        max_kl: delta, nats.
        max_tv: eps.

    Returns:
        Float64, shape () or (batch,). NaN where T exceeds `length`: a position without Dbar_t has no bound.

    Raises:
        ValueError: `mean_tv` has another shape or is not of floats; a Python number is out of range.

    Reference:
        arXiv:2512.23075v4, Adaptive KL, TV and hybrid.
    """
    if mean_tv.ndim not in (1, 2) or not mean_tv.is_floating_point():
        raise ValueError(
            f"mean_tv: got {mean_tv.dtype} of shape {tuple(mean_tv.shape)}; allowed: floats of shape (length,) or "
            "(batch, length); give E_roll[TV] for every position"
        )
    length = mean_tv.shape[-1]
    rows = mean_tv[..., :0].sum(dim=-1)  # zeros of its batch shape, on its device
    rows, horizon, max_kl, max_tv = as_float64(mean_tv=rows, horizon=horizon, max_kl=max_kl, max_tv=max_tv)
    total = torch.zeros_like(rows)
    columns = horizon.unsqueeze(-1), max_kl.unsqueeze(-1), max_tv.unsqueeze(-1)
    # in pieces: a long `mean_tv` shared by a batch must not become (batch, length)
    size = max(1, _CHUNK // max(1, rows.numel()))
    for start in range(0, length, size):
        part = mean_tv.detach()[..., start : start + size].double()
        position = torch.arange(start + 1, start + part.shape[-1] + 1, dtype=torch.float64, device=mean_tv.device)
        remaining = columns[0] - position
        weights = tail_weights(remaining.clamp(min=0), max_kl=columns[1], max_tv=columns[2])
        terms = torch.where(part >= 0, part.clamp(max=1.0), torch.nan) * weights
        total = total + torch.where(remaining >= 0, terms, 0.0).sum(dim=-1)
    known = (horizon <= length) & ~max_kl.isnan() & ~max_tv.isnan()
    return torch.where(known, 4 * total, torch.nan)


def error_bounds(
    horizon: Numbers,
    max_kl: Numbers,
    seq_kl: Numbers,
    *,
    max_tv: Numbers | None = None,
    seq_tv: Numbers | None = None,
    mean_tv: torch.Tensor | None = None,
) -> ErrorBounds:
    """Compute every bound on |J(theta) - J(roll) - L'| for rewards in [0, 1].

    What is not given follows from Pinsker: eps = min(1, sqrt(delta/2)), TVseq = min(1, sqrt(KLseq/2)), Dbar_t = eps.

    Args:
        horizon: T, tokens of the model in the longest sequence, whole.
        max_kl: delta, the largest KL(roll || theta) of a token over all reachable contexts, nats.
        seq_kl: KLseq = sum_t E_roll[KL(c_t)], nats.
        max_tv: eps, the largest total-variation distance of a token over all reachable contexts.
        seq_tv: TVseq, the total-variation distance of whole sequences.
        mean_tv: Dbar_t = E_roll[TV(c_t)], shape (length,) or (batch, length); see `adaptive_bound`.

    Returns:
        The bounds: a diagnostic, and a proof only where the two assumptions of this module are known to hold.

    Raises:
        ValueError: a Python number is out of range, or shapes do not fit together.

    Reference:
        arXiv:2512.23075v4, Table 1 and the unified bound.
    """
    given = {name: value for name, value in (("max_tv", max_tv), ("seq_tv", seq_tv)) if value is not None}
    # checked once and not by each bound: checks cost several times as much as the bounds of a few numbers
    names = ("horizon", "max_kl", "seq_kl", *given)
    checked = dict(zip(names, as_float64(horizon=horizon, max_kl=max_kl, seq_kl=seq_kl, **given), strict=True))
    horizon, max_kl, seq_kl_tv = checked["horizon"], checked["max_kl"], _pinsker(checked["seq_kl"])
    kl_tv = _pinsker(max_kl)
    eps = checked.get("max_tv", kl_tv)
    spread = sum_sqrt((horizon - 1).clamp(min=0), max_kl)
    if max_tv is None:
        # clamped: an infinite delta at T = 1 would be NaN
        classical = horizon * (horizon - 1) * max_kl.clamp(max=torch.finfo(torch.float64).max)
    else:
        classical = 2 * horizon * (horizon - 1) * eps.square()
    if mean_tv is None:
        adaptive = _uniform_adaptive(horizon, max_kl, eps, spread)
    else:
        adaptive = adaptive_bound(mean_tv, horizon, max_kl=max_kl, max_tv=eps)
    values = {
        "classical": classical,
        "coupling": _coupling(horizon, eps),
        "pinsker_marginal_kl": 4 * kl_tv.clamp(max=1.0) * spread,
        "pinsker_marginal_tv": 4 * eps.clamp(max=1.0) * spread,
        "mixed_kl": _mixed(horizon, kl_tv, seq_kl_tv),
        "mixed_tv": _mixed(horizon, eps, checked.get("seq_tv", seq_kl_tv)),
        "adaptive": adaptive,
    }
    classical, *others = torch.broadcast_tensors(*values.values())
    bounds = dict(zip(values, (classical, *others), strict=True))
    return ErrorBounds(**bounds, unified=torch.stack(others).amin(dim=0))  # amin hands NaN on


def halved(bounds: ErrorBounds) -> ErrorBounds:
    """Return half of each bound, which holds as well: ours, not the paper's.

    For rewards in [0, 1] a token changes the expected reward by at most TV(c_t), and what follows by at most the total
    variation of the futures, where the paper takes twice as much of the one or the other: see docs/math.md.

    Args:
        bounds: the paper's, of `error_bounds`.

    Returns:
        Bounds on |Error| under the same assumptions.
    """
    return ErrorBounds(**{field.name: getattr(bounds, field.name) / 2 for field in fields(bounds)})


def _pinsker(kl: torch.Tensor) -> torch.Tensor:
    return (kl.clamp(max=2.0) / 2).sqrt()


def _coupling(horizon: torch.Tensor, max_tv: torch.Tensor) -> torch.Tensor:
    return 4 * max_tv.clamp(max=1.0) * sum_linear((horizon - 1).clamp(min=0), max_tv)


def _mixed(horizon: torch.Tensor, max_tv: torch.Tensor, seq_tv: torch.Tensor) -> torch.Tensor:
    return 4 * horizon * max_tv.clamp(max=1.0) * seq_tv.clamp(max=1.0)


def _uniform_adaptive(
    horizon: torch.Tensor, max_kl: torch.Tensor, max_tv: torch.Tensor, spread: torch.Tensor
) -> torch.Tensor:
    """`adaptive_bound` with Dbar_t = eps; the linear route is the lower one up to T - t = delta / (2 eps^2).

    `spread` is sum_{k < T} min(1, sqrt(k delta / 2)).
    """
    eps, last = max_tv.clamp(max=1.0), (horizon - 1).clamp(min=0)
    crossover = torch.where(eps == 0, torch.inf, ((max_kl / 2).sqrt() / eps).square().floor())
    knee = torch.minimum(last, crossover)
    # the difference first: it is 0 where the linear route is the lower one throughout, and must not round what is tiny
    return 4 * eps * (sum_linear(knee, eps) + (spread - sum_sqrt(knee, max_kl)))
