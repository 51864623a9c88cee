"""Divergences of single tokens from hidden states and output heads: no [tokens, vocab] tensor exists at any time."""

from dataclasses import dataclass

import torch

from trm_agent.core.exact import (
    TokenDivergences,
    accumulation_dtype,
    check_options,
    divergence_sums,
    divergences_from_sums,
)
from trm_agent.core.precision import without_autocast

CHUNK_TOKENS, CHUNK_VOCAB = 1024, 4096


@dataclass(frozen=True)
class _Head:
    """One policy's last layer on one chunk of tokens."""

    hidden: torch.Tensor
    weight: torch.Tensor
    temperature: float
    dtype: torch.dtype

    def logits(self, columns: slice) -> torch.Tensor:
        """Logits of a slice of the vocabulary, shape (chunk_tokens, columns)."""
        logits = torch.nn.functional.linear(self.hidden, self.weight[columns].to(self.hidden.dtype)).to(self.dtype)
        return logits if self.temperature == 1.0 else logits / self.temperature


@dataclass(frozen=True)
class _Scan:
    """What a pass over the vocabulary finds. Shape (chunk_tokens, 1)."""

    largest: torch.Tensor
    """Largest logit m."""
    log_total: torch.Tensor
    """log sum e^(logit - m), float64."""
    sampled: torch.Tensor
    """The given tokens' logits, float64; NaN for an id outside the vocabulary."""


@torch.no_grad()
@without_autocast
def exact_divergences_from_hidden(
    rollout_hidden: torch.Tensor,
    rollout_lm_head: torch.Tensor,
    hidden: torch.Tensor,
    lm_head: torch.Tensor,
    *,
    token_ids: torch.Tensor | None = None,
    temperature: float = 1.0,
    product_dtype: torch.dtype | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
    chunk_vocab: int = CHUNK_VOCAB,
) -> TokenDivergences:
    """Measure what `exact_divergences` does, with logits = hidden lm_head^T formed in tiles and dropped.

    Each tile is formed twice: once for the normalisers, once for the sums. In float32 the divergences are off by
    another relative 1e-6.

    Args:
        rollout_hidden: input of the output head of the policy that sampled (after the final norm), shape
            (num_tokens, rollout hidden size).
        rollout_lm_head: weight of that head, shape (vocab, rollout hidden size).
        hidden: the same of the policy in training, shape (num_tokens, hidden size).
        lm_head: the same of the policy in training, shape (vocab, hidden size).
        token_ids: int64, tokens whose two log-probs are wanted as well, shape (num_tokens,); None for none.
        temperature: divides both logits.
        product_dtype: dtype that the products are taken in and rounded to; None for that of each hidden state, as a
            model's own head does. A bfloat16 product is off by up to 2^-9 of each logit, so give what the engines use.
        chunk_tokens: rows of a tile.
        chunk_vocab: columns of a tile. Memory is about five tiles, and of another product_dtype chunk_vocab rows of a
            weight.

    Returns:
        The divergences, without a graph, in float32 (float64 if an input is).

    Raises:
        ValueError: for shapes that do not fit, or a temperature or a chunk that is not positive.

    Reference:
        arXiv:2512.23075v4, token divergences KL(c_t) and TV(c_t).
    """
    _check_shapes(rollout_hidden, rollout_lm_head, hidden, lm_head)
    check_options(len(hidden), token_ids, temperature, min(chunk_tokens, chunk_vocab))
    dtype = accumulation_dtype(rollout_hidden, hidden)
    tiles = [slice(start, start + chunk_vocab) for start in range(0, len(lm_head), chunk_vocab)]
    sums, normalizers, sampled = [], [], []
    for start in range(0, len(hidden), chunk_tokens):
        rows = slice(start, start + chunk_tokens)
        heads = [
            _Head(states[rows].to(product_dtype or states.dtype), weight, temperature, dtype)
            for states, weight in ((rollout_hidden, rollout_lm_head), (hidden, lm_head))
        ]
        ids = hidden.new_zeros(len(heads[0].hidden), dtype=torch.int64) if token_ids is None else token_ids[rows]
        scans = [_scan(head, tiles, ids) for head in heads]
        sums.append(_sums(heads, scans, tiles))
        normalizers.append(torch.cat([scan.largest + scan.log_total for scan in scans], dim=-1))
        sampled.append(torch.cat([scan.sampled for scan in scans], dim=-1))
    if not sums:
        return divergences_from_sums(hidden.new_empty(0, 3, dtype=dtype), hidden.new_empty(0, 2).double(), None)
    wanted = None if token_ids is None else torch.cat(sampled)
    return divergences_from_sums(torch.cat(sums).to(dtype), torch.cat(normalizers), wanted)


def _scan(head: _Head, tiles: list[slice], token_ids: torch.Tensor) -> _Scan:
    largest = torch.full((len(token_ids), 1), -torch.inf, dtype=head.dtype, device=token_ids.device)
    total = torch.zeros_like(largest, dtype=torch.float64)
    sampled = torch.full_like(total, torch.nan)
    for columns in tiles:
        logits = head.logits(columns)
        places = (token_ids - columns.start).unsqueeze(-1)
        inside = (places >= 0) & (places < logits.shape[-1])
        sampled = torch.where(inside, logits.gather(1, places.clamp(0, logits.shape[-1] - 1)).double(), sampled)
        before, largest = largest, torch.maximum(largest, logits.amax(-1, keepdim=True))
        total = total * (before - largest).exp() + logits.sub_(largest).exp_().sum(-1, keepdim=True)
    return _Scan(largest, total.log(), sampled)


def _sums(heads: list[_Head], scans: list[_Scan], tiles: list[slice]) -> torch.Tensor:
    """`divergence_sums` over the vocabulary, float64."""
    sums = scans[0].log_total.new_zeros(len(scans[0].log_total), 3)
    shift = (scans[1].log_total - scans[0].log_total).to(heads[0].dtype)
    for columns in tiles:
        p, q = (head.logits(columns).sub_(scan.largest) for head, scan in zip(heads, scans, strict=True))
        log_ratio = (q - p).sub_(shift)
        for centred, scan in zip((p, q), scans, strict=True):
            centred.sub_(scan.log_total.to(centred.dtype)).exp_()
        sums += divergence_sums(p, q, log_ratio, torch.empty_like(log_ratio))
    return sums


def _check_shapes(
    rollout_hidden: torch.Tensor, rollout_lm_head: torch.Tensor, hidden: torch.Tensor, lm_head: torch.Tensor
) -> None:
    tensors = {
        "rollout_hidden": rollout_hidden,
        "rollout_lm_head": rollout_lm_head,
        "hidden": hidden,
        "lm_head": lm_head,
    }
    fits = (
        all(tensor.ndim == 2 and tensor.numel() > 0 for tensor in (rollout_lm_head, lm_head))
        and rollout_hidden.ndim == hidden.ndim == 2
        and len(rollout_hidden) == len(hidden)
        and len(rollout_lm_head) == len(lm_head)
        and rollout_hidden.shape[1] == rollout_lm_head.shape[1]
        and hidden.shape[1] == lm_head.shape[1]
    )
    if not fits:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(
            f"got {shapes}; allowed: (num_tokens, size) and (vocab, size) of each policy, with one num_tokens and one "
            "vocab; cut off the rows that pad one of the vocabularies"
        )
