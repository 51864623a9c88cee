"""Certified intervals for a token's divergences when only the rollout's K most probable tokens are known.

Let S be the known tokens, p = pi_roll, q = pi_theta, t = 1 - sum_S p the rollout's mass outside S (the tail), c the
least known probability. No tail token has more than c. With psi(p, q) = p log(p/q) - p + q >= 0, and because p and q
both sum to one,  KL(roll || theta) = sum_v psi(p_v, q_v).

Lower bound. By the log-sum inequality the tail contributes at least psi(t, sum_tail q), and by the triangle inequality
at least |t - sum_tail q| to 2 TV; both are attained where the tail is proportional to q.

Upper bound. The tail lies in the polytope {0 <= w_v <= c, sum w = t}. Both divergences are convex in w, so their
maximum is at a vertex: m = floor(t / c) tokens have c, one has the rest r = t - m c, the others nothing. Which token
has which is settled by exchange: for w > w' and q < q', giving the larger mass to the smaller q is never less,
w log(1/q) + w' log(1/q') >= w log(1/q') + w' log(1/q)  and  |w - q| + |w' - q'| >= |w - q'| + |w' - q|
(the second because |x| is convex). So c goes to the m tokens with the least q, and r to the next.

Rounding. Each given log-prob l may be off by `log_prob_error` (1 + |l|), so c is taken at its largest, t runs over an
interval, and both bounds are widened by what this can change; the trainer's side is computed in float64.
"""

import math
from dataclasses import dataclass, fields

import torch

from trm_agent.core.distribution_checks import check_topk_shapes
from trm_agent.core.precision import without_autocast

# of the float64 arithmetic here, relative to 1 + the bound
ROUNDING = 1e-13
CHUNK_ELEMENTS = 2**20


@dataclass(frozen=True)
class DivergenceInterval:
    """Bounds on each token's divergences. All tensors are float64 with shape (num_tokens,)."""

    kl_lower: torch.Tensor
    """KL(roll || theta) is at least this, nats."""
    kl_upper: torch.Tensor
    """KL(roll || theta) is at most this, nats; infinite if the tail may lie on a token that theta excludes."""
    tv_lower: torch.Tensor
    """Total variation is at least this."""
    tv_upper: torch.Tensor
    """Total variation is at most this."""
    tail_mass: torch.Tensor
    """Rollout probability of the tokens that are not known, in [0, 1]."""


@dataclass(frozen=True)
class _Rollout:
    """What the top-K says about the rollout. float64; shape (num_tokens,) where none is given."""

    log_probs: torch.Tensor
    """-infinity where filler, shape (num_tokens, K)."""
    errors: torch.Tensor
    """Largest error of each log-prob; 0 where filler, shape (num_tokens, K)."""
    slack: torch.Tensor
    """Largest error of the sum of the known probabilities."""
    tail_mass: torch.Tensor
    tail_low: torch.Tensor
    """Least mass of the tail."""
    tail_high: torch.Tensor
    """Largest mass of the tail."""
    largest_tail_prob: torch.Tensor
    """c: no token of the tail has more."""
    num_tail: torch.Tensor
    """Tokens of the tail, int64."""
    num_full: torch.Tensor
    """m: how many of them can have c at once, int64."""

    def rows(self, rows: slice) -> "_Rollout":
        return _Rollout(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class _Policy:
    """What the bounds need of the policy in training. float64."""

    known_log_probs: torch.Tensor
    """Of the known tokens; anything where filler, shape (num_tokens, K)."""
    tail_log_prob: torch.Tensor
    """Of the other tokens together, shape (num_tokens,)."""
    least_log_probs: torch.Tensor
    """Of the tail's least probable tokens, ascending, then +infinity, shape (num_tokens, width)."""


@torch.no_grad()
@without_autocast
def topk_intervals(
    topk_ids: torch.Tensor,
    topk_log_probs: torch.Tensor,
    logits: torch.Tensor,
    *,
    log_prob_error: float | None = None,
    chunk_tokens: int | None = None,
) -> DivergenceInterval:
    """Bound each token's KL(roll || theta) and total variation from the rollout's K most probable tokens.

    kl_lower = sum_S p log(p/q) + t log(t / sum_tail q)
    kl_upper = sum_S p log(p/q) + sum_{m least q} c log(c/q) + r log(r / q_next)
    TV likewise; see the module for the terms, the proof and the rounding. With K = vocab both bounds are the exact
    value, up to rounding. Synchronises with the host once, for the largest m of each chunk.

    Args:
        topk_ids: int64, the rollout's K most probable tokens in any order, shape (num_tokens, K).
        topk_log_probs: their rollout log-probs, shape (num_tokens, K), nats. -infinity is filler: less than K are
            known, and the id is not looked at. `check_topk` names what is wrong with a pair.
        logits: of the policy in training, divided by the temperature, shape (num_tokens, vocab), nats.
        log_prob_error: largest error of a given log-prob l, relative to 1 + |l|; None for `default_log_prob_error`.
        chunk_tokens: rows that are worked on at a time, or None to choose by the vocabulary.

    Returns:
        The bounds, without a graph. A NaN among a token's inputs makes its bounds NaN.

    Raises:
        ValueError: for shapes or dtypes that do not fit.

    Reference:
        arXiv:2512.23075v4, token divergences KL(c_t) and TV(c_t).
    """
    if logits.ndim != 2 or len(logits) != len(topk_ids):
        raise ValueError(
            f"logits {tuple(logits.shape)} must have the shape (num_tokens, vocab), with the {len(topk_ids)} tokens of "
            f"topk_ids {tuple(topk_ids.shape)}; keep the sampled positions in both"
        )
    check_topk_shapes(topk_ids, topk_log_probs, logits.shape[-1])
    num_tokens, vocab = logits.shape
    if log_prob_error is None:
        log_prob_error = default_log_prob_error(topk_log_probs.dtype, vocab)
    chunk = chunk_tokens or max(1, CHUNK_ELEMENTS // vocab)
    rollout = _rollout(topk_log_probs.double(), vocab, log_prob_error)
    bounds = logits.new_empty(num_tokens, 4, dtype=torch.float64)
    parts = [slice(start, start + chunk) for start in range(0, num_tokens, chunk)]
    # one synchronisation: the largest m decides how many of the least probable tokens a chunk looks for
    most = torch.stack([rollout.num_full[rows].amax() for rows in parts]).tolist() if parts else []
    for rows, num_full in zip(parts, most, strict=True):
        part = rollout.rows(rows)
        bounds[rows] = _bounds(part, _policy(topk_ids[rows], part, logits[rows], min(num_full + 1, vocab)))
    kl_lower, kl_upper, tv_lower, tv_upper = bounds.unbind(-1)
    return DivergenceInterval(kl_lower, kl_upper, tv_lower, tv_upper, rollout.tail_mass)


def default_log_prob_error(dtype: torch.dtype, vocab: int) -> float:
    """Return 8 + 2 sqrt(vocab) machine epsilons: what a log_softmax in this dtype may be off by, relative to 1 + |l|.

    The error is that of the sum of exponentials. Pairwise and block sums (accelerators) stay far below. torch's CPU
    kernel adds vocab / 16 terms (AVX-512; twice as many with AVX2) one after another, with an error of up to half an
    epsilon each: covered up to a vocabulary of 1,024, and beyond it for all that was measured (a sure token before a
    flat rest in a vocabulary of 151,936: 360 epsilons, against 788 here), not for the worst case.

    Args:
        dtype: of the log-probs.
        vocab: size of the vocabulary.

    Returns:
        The relative error.
    """
    return (8 + 2 * math.sqrt(vocab)) * torch.finfo(dtype).eps


def _rollout(log_probs: torch.Tensor, vocab: int, error: float) -> _Rollout:
    filler = log_probs == -torch.inf
    errors = torch.where(filler, 0.0, error * (1 + log_probs.abs()))
    probs = log_probs.exp()
    slack = (probs * errors.expm1()).sum(-1)
    least = torch.where(filler, torch.inf, log_probs + errors).amin(-1)
    # without a known token the least is +infinity, and c is 1
    largest_tail_prob = least.exp().clamp(max=1)
    num_tail = vocab - (~filler).sum(-1)
    tail_mass = (1 - probs.sum(-1)).clamp(0, 1)
    tail_high = torch.minimum((tail_mass + slack).clamp(max=1), num_tail * largest_tail_prob)
    tail_low = torch.minimum((tail_mass - slack).clamp(min=0), tail_high)
    num_full = torch.where(tail_high > 0, tail_high / largest_tail_prob, 0.0).floor().long()
    return _Rollout(
        log_probs=log_probs,
        errors=errors,
        slack=slack,
        tail_mass=torch.minimum(tail_mass, tail_high),
        tail_low=tail_low,
        tail_high=tail_high,
        largest_tail_prob=largest_tail_prob,
        num_tail=num_tail,
        num_full=torch.minimum(num_full, num_tail),
    )


def _policy(topk_ids: torch.Tensor, rollout: _Rollout, logits: torch.Tensor, width: int) -> _Policy:
    known = rollout.log_probs != -torch.inf
    # Filler repeats a known id, so that scattering to it is harmless. A row of filler repeats one id of its own with
    # the value that stands there already.
    first = known.int().argmax(-1, keepdim=True)
    ids = torch.where(known, topk_ids, topk_ids.gather(1, first).clamp(0, logits.shape[-1] - 1))
    known_logits = logits.gather(1, ids)
    any_known = known.any(-1, keepdim=True)
    largest = logits.amax(-1, keepdim=True).double()
    # Logarithms throughout: a tail of e^-10000 is not 0, its divergence is finite.
    tail = (logits.double() - largest).scatter_(1, ids, torch.where(any_known, -torch.inf, known_logits - largest))
    tail_log_total = tail.logsumexp(-1, keepdim=True)
    known_log_total = torch.where(known, known_logits - largest, -torch.inf).logsumexp(-1, keepdim=True)
    log_total = torch.logaddexp(tail_log_total, known_log_total)
    least = logits.scatter(1, ids, torch.where(any_known, torch.inf, known_logits))
    least = least.topk(width, dim=-1, largest=False, sorted=True).values
    return _Policy(
        known_log_probs=known_logits - largest - log_total,
        tail_log_prob=(tail_log_total - log_total).squeeze(-1),
        least_log_probs=least - largest - log_total,
    )


def _bounds(rollout: _Rollout, policy: _Policy) -> torch.Tensor:
    """kl_lower, kl_upper, tv_lower and tv_upper, shape (num_tokens, 4)."""
    known_kl, kl_slack, known_tv = _known_part(rollout, policy)
    tail_mass = policy.tail_log_prob.exp()
    nearest = torch.maximum(torch.minimum(tail_mass, rollout.tail_high), rollout.tail_low)
    tail_kl_lower = torch.xlogy(nearest, nearest) - _product(nearest, policy.tail_log_prob) - nearest + tail_mass
    tail_tv_lower = (nearest - tail_mass).abs()
    tail_kl_upper, tail_tv_upper = _tail_upper(rollout, policy)
    kl_lower = known_kl + tail_kl_lower - kl_slack
    kl_upper = known_kl + tail_kl_upper + kl_slack
    tv_lower = (known_tv + tail_tv_lower - rollout.slack) / 2
    tv_upper = (known_tv + tail_tv_upper + rollout.slack) / 2
    lower, upper = torch.stack([kl_lower, tv_lower]), torch.stack([kl_upper, tv_upper])
    # factors and not differences: infinity minus infinity is NaN
    lower = (lower * (1 - ROUNDING) - ROUNDING).clamp(min=0)
    upper = upper * (1 + ROUNDING) + ROUNDING
    return torch.stack([lower[0], upper[0], lower[1], upper[1].clamp(max=1)], dim=-1)


def _known_part(rollout: _Rollout, policy: _Policy) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sum psi over the known tokens, bound its error, and sum |p - q|.

    |d psi / d log p| = p |log(p/q)|, so an error of e in log p changes psi by at most e exp(e) p (|log(p/q)| + e).
    """
    known = rollout.log_probs != -torch.inf
    p, q = rollout.log_probs.exp(), torch.where(known, policy.known_log_probs.exp(), 0.0)
    log_ratio = torch.where(known, rollout.log_probs - policy.known_log_probs, 0.0)
    excluded = log_ratio == torch.inf
    log_ratio = torch.where(excluded, 0.0, log_ratio)
    terms = torch.where(excluded, torch.inf, p * log_ratio - p + q)
    slack = rollout.errors * rollout.errors.exp() * p * (log_ratio.abs() + rollout.errors)
    return terms.sum(-1), slack.sum(-1), (p - q).abs().sum(-1)


def _tail_upper(rollout: _Rollout, policy: _Policy) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the most that the tail adds to KL and to 2 TV.

    Both are taken at the largest tail mass. A smaller one, down to tail_low, changes 2 TV by at most the difference,
    and raises KL by at most the integral of log(q/w) over the mass w that is taken away from the last tokens.
    """
    log_q, capacity = policy.least_log_probs, rollout.largest_tail_prob
    rest = (rollout.tail_high - rollout.num_full * capacity).clamp(min=0)
    place = torch.arange(log_q.shape[-1], device=log_q.device)
    exists = place < rollout.num_tail.unsqueeze(-1)
    num_full = rollout.num_full.unsqueeze(-1)
    placed = exists & (place <= num_full)
    weights = torch.where(place < num_full, capacity.unsqueeze(-1), rest.unsqueeze(-1))
    weights = torch.where(placed, weights, 0.0)
    log_q = torch.where(placed, log_q, -torch.inf)
    q = log_q.exp()
    tail_mass = policy.tail_log_prob.exp()
    kl = (torch.xlogy(weights, weights) - _product(weights, log_q)).sum(-1)
    tv = torch.where(placed, (weights - q).abs(), 0.0).sum(-1) + (tail_mass - q.sum(-1)).clamp(min=0)
    width = rollout.tail_high - rollout.tail_low
    step = torch.minimum(width, capacity)
    num_steps = torch.where(step > 0, width / step, 0.0).floor() + 1
    most_q = q.amax(-1)
    taken = torch.minimum(step, most_q)
    slack = num_steps * (taken + torch.xlogy(taken, most_q) - torch.xlogy(taken, taken))
    return kl - rollout.tail_high + tail_mass + slack, tv + width


def _product(mass: torch.Tensor, log_prob: torch.Tensor) -> torch.Tensor:
    """mass times log_prob, where no mass times a log of 0 is 0."""
    return torch.where(mass == 0, 0.0, mass * log_prob)
