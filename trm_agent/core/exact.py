"""Divergences of single tokens between two full distributions, in chunks and without a second [tokens, vocab] tensor.

KL(roll || theta) is summed in the form  sum_v p_v (e^{d_v} - 1 - d_v),  d = log q - log p,  p = pi_roll, q = pi_theta.
No term is negative, and an error in the normalisation of d enters squared, so nearly equal distributions do not cancel.
Where q_v > e^LARGEST_EXPONENT p_v the exponential is cut off, and the mass of q that this misses is added by itself.
"""

import math
from dataclasses import dataclass

import torch

from trm_agent.core.precision import without_autocast

LARGEST_EXPONENT = 2.0
# below this, e^d is 0 beside 1 in float64 as well
SMALLEST_EXPONENT = -100.0
# Scratch of a chunk: small enough to stay in a CPU's caches, large enough to fill an accelerator.
CPU_CHUNK_ELEMENTS, DEVICE_CHUNK_ELEMENTS = 2**19, 2**22


@dataclass(frozen=True)
class TokenDivergences:
    """Divergences of each token's two distributions. All tensors have shape (num_tokens,)."""

    kl: torch.Tensor
    """KL(roll || theta), nats."""
    reverse_kl: torch.Tensor
    """KL(theta || roll), nats."""
    tv: torch.Tensor
    """Total variation, in [0, 1]."""
    rollout_log_probs: torch.Tensor | None = None
    """log pi_roll of the given tokens, nats; None unless token ids were given."""
    log_probs: torch.Tensor | None = None
    """log pi_theta of the given tokens, nats; None unless token ids were given."""


@torch.no_grad()
@without_autocast
def exact_divergences(
    rollout_logits: torch.Tensor,
    logits: torch.Tensor,
    *,
    token_ids: torch.Tensor | None = None,
    temperature: float = 1.0,
    chunk_tokens: int | None = None,
) -> TokenDivergences:
    """Measure the divergences between each token's rollout and trainer distribution over the whole vocabulary.

    KL(roll || theta) = sum_v p_v log(p_v / q_v),   TV = 1/2 sum_v |p_v - q_v|,   p = pi_roll, q = pi_theta

    Error in float32: of a KL at most e (KL + sqrt(KL) + e) with e = 3e-7, of a TV e; in float64 e = 6e-16. (The
    textbook form is off by 1e-6 and more, however small the KL.) Probabilities below the dtype's smallest number are 0.
    A row that is NaN, +infinity or entirely -infinity in either input gives NaN; `check_log_probs` names the fault.

    Args:
        rollout_logits: of the policy that sampled, shape (num_tokens, vocab), nats. Normalised log-probs are logits
            too; -infinity is a probability of 0.
        logits: of the policy in training, same shape.
        token_ids: int64, tokens whose two log-probs are wanted as well, shape (num_tokens,); None for none.
        temperature: divides both logits; 1 for log-probs.
        chunk_tokens: rows that are worked on at a time, or None to choose by the device. Memory beyond the inputs is
            four times chunk_tokens x vocab elements (six for half precision or another temperature).

    Returns:
        The divergences, without a graph, in float32 (float64 if an input is). KL is infinite where q is 0 and p is not.

    Raises:
        ValueError: for shapes that do not fit, or a temperature or a chunk that is not positive.

    Reference:
        arXiv:2512.23075v4, token divergences KL(c_t) and TV(c_t).
    """
    if rollout_logits.ndim != 2 or rollout_logits.shape != logits.shape or logits.shape[-1] == 0:
        raise ValueError(
            f"rollout_logits {tuple(rollout_logits.shape)} and logits {tuple(logits.shape)} must share one shape "
            "(num_tokens, vocab) with vocab above 0; flatten batch and length, and keep the sampled positions"
        )
    num_tokens, vocab = logits.shape
    check_options(num_tokens, token_ids, temperature, chunk_tokens)
    if chunk_tokens is None:
        elements = CPU_CHUNK_ELEMENTS if logits.device.type == "cpu" else DEVICE_CHUNK_ELEMENTS
        chunk_tokens = math.ceil(elements / vocab)
    dtype = accumulation_dtype(rollout_logits, logits)
    scratch = torch.empty(4, min(chunk_tokens, num_tokens), vocab, dtype=dtype, device=logits.device)
    sums = logits.new_empty(num_tokens, 3, dtype=dtype)
    normalizers = logits.new_empty(num_tokens, 2, dtype=torch.float64)
    for start in range(0, num_tokens, chunk_tokens):
        rows = slice(start, start + chunk_tokens)
        rollout_chunk, chunk = (_upcast(values[rows], dtype, temperature) for values in (rollout_logits, logits))
        p, q, d, e = scratch[:, : len(chunk)]
        rollout_largest, rollout_log_total = _softmax(rollout_chunk, p)
        largest, log_total = _softmax(chunk, q)
        # each policy is centred first: a constant between the two would round every log ratio
        torch.sub(chunk, largest, out=d).sub_(torch.sub(rollout_chunk, rollout_largest, out=e))
        d.sub_((log_total - rollout_log_total).to(dtype))
        sums[rows] = divergence_sums(p, q, d, e)
        normalizers[rows] = torch.cat([rollout_largest + rollout_log_total, largest + log_total], dim=-1)
    if token_ids is None:
        return divergences_from_sums(sums, normalizers)
    sampled = [values.gather(1, token_ids.unsqueeze(-1)) for values in (rollout_logits, logits)]
    return divergences_from_sums(sums, normalizers, torch.cat(sampled, dim=-1).double() / temperature)


def divergence_sums(
    rollout_probs: torch.Tensor, probs: torch.Tensor, log_ratio: torch.Tensor, scratch: torch.Tensor
) -> torch.Tensor:
    """Sum the terms of KL(roll || theta), KL(theta || roll) and 2 TV over (a part of) the vocabulary.

    All four tensors are overwritten. NaN terms are 0 times infinity, from a probability of 0, and count as 0.

    Args:
        rollout_probs: p, shape (num_tokens, vocab).
        probs: q, same shape.
        log_ratio: d = log q - log p, same shape, nats.
        scratch: same shape.

    Returns:
        Shape (num_tokens, 3).
    """
    p, q, d, e = rollout_probs, probs, log_ratio, scratch
    missed = q.sub_(p, alpha=math.exp(LARGEST_EXPONENT)).clamp_(min=0)
    missed_mass = missed.nansum(-1)
    missed_reverse_kl = missed.mul_(d).nansum(-1) - missed_mass
    bounded = torch.clamp(d, min=SMALLEST_EXPONENT, out=missed)
    torch.clamp(bounded, max=LARGEST_EXPONENT, out=e).expm1_()
    negative_kl = d.sub_(e).mul_(p).nansum(-1)
    # q d - q + p = p (e^d d - e^d + 1), with e^d - 1 in e
    reverse_kl = torch.addcmul(bounded, bounded, e, out=d).sub_(e).mul_(p).nansum(-1)
    twice_tv = e.mul_(p).abs_().nansum(-1)
    return torch.stack([missed_mass - negative_kl, missed_reverse_kl + reverse_kl, missed_mass + twice_tv], dim=-1)


def divergences_from_sums(
    sums: torch.Tensor, normalizers: torch.Tensor, sampled: torch.Tensor | None = None
) -> TokenDivergences:
    """Form the result from the sums of `divergence_sums`.

    Args:
        sums: over the whole vocabulary, shape (num_tokens, 3).
        normalizers: logsumexp of the rollout's and of the trainer's logits, shape (num_tokens, 2), nats.
        sampled: the given tokens' logits, in the same order, shape (num_tokens, 2), nats; None for none.

    Returns:
        The divergences; NaN where a normaliser is not finite.
    """
    # expm1 may round a sum of zeros to just below 0; NaN terms were dropped, and come back from the normalisers
    valid = torch.isfinite(normalizers).all(dim=-1, keepdim=True)
    kl, reverse_kl, twice_tv = torch.where(valid, sums.clamp(min=0), torch.nan).unbind(-1)
    if sampled is None:
        return TokenDivergences(kl, reverse_kl, (twice_tv / 2).clamp(max=1))
    rollout_log_probs, log_probs = (sampled - normalizers).to(sums.dtype).unbind(-1)
    return TokenDivergences(kl, reverse_kl, (twice_tv / 2).clamp(max=1), rollout_log_probs, log_probs)


def accumulation_dtype(*tensors: torch.Tensor) -> torch.dtype:
    """float64 if one of the tensors is, else float32."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def check_options(
    num_tokens: int, token_ids: torch.Tensor | None, temperature: float, chunk_tokens: int | None
) -> None:
    """Refuse options that cannot work.

    Args:
        num_tokens: rows of the inputs.
        token_ids: see `exact_divergences`.
        temperature: see `exact_divergences`.
        chunk_tokens: see `exact_divergences`.

    Raises:
        ValueError: naming the option.
    """
    if token_ids is not None and token_ids.shape != (num_tokens,):
        raise ValueError(f"token_ids: got shape {tuple(token_ids.shape)}; allowed: ({num_tokens},), one id a token")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature: got {temperature}; allowed: above 0 and finite; 1 leaves log-probs as they are")
    if chunk_tokens is not None and chunk_tokens < 1:
        raise ValueError(f"chunk_tokens: got {chunk_tokens}; allowed: 1 or more; leave it out to take the default")


def _upcast(values: torch.Tensor, dtype: torch.dtype, temperature: float) -> torch.Tensor:
    values = values.to(dtype)
    return values if temperature == 1.0 else values / temperature


def _softmax(logits: torch.Tensor, out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Write the probabilities to `out`; return each row's largest logit m, and log sum e^(logit - m) in float64."""
    torch.softmax(logits, dim=-1, out=out)
    # softmax sums less carefully than sum does: a vocabulary's probabilities come out wrong by a factor of 1 + 1e-5
    largest_prob, total = out.amax(-1, keepdim=True).double(), out.sum(-1, keepdim=True)
    out.div_(total)
    return logits.amax(-1, keepdim=True), total.double().log() - largest_prob.log()
