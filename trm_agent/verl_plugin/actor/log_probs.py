"""Log-probs of tokens from logits, in chunks, for an accelerator without flash-attn.

verl then takes one logsumexp, or in half precision one log-softmax, a token, and the latter in half precision.
torch's own cross-entropy holds the log-softmax of all tokens in float32 for the backward pass: with logits in half
precision and their gradient three times the memory of what is here, which keeps one number a token.
"""

from typing import Any

import torch

# number of logits that are worked on at a time in float32
CHUNK_ELEMENTS = 2**25


def chunked_log_probs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return log softmax(logits)[labels], computed in float32 at least.

    Args:
        logits: shape (..., vocabulary), of any dtype; nats.
        labels: token ids, shape (...).

    Returns:
        Shape (...), nats, in float32, or float64 if the logits are.
    """
    found = _LogProbs.apply(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))
    return found.view(labels.shape)


class _LogProbs(torch.autograd.Function):
    """log softmax(x)_y = x_y - log sum_v e^(x_v); its gradient is that of x_y, less the probabilities."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        totals = logits.new_empty(len(logits), dtype=dtype)
        for rows in _chunks(logits):
            totals[rows] = logits[rows].to(dtype).logsumexp(dim=-1)
        ctx.save_for_backward(logits, labels, totals)
        return logits.gather(1, labels.unsqueeze(1)).squeeze(1).to(dtype) - totals

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, labels, totals = ctx.saved_tensors
        found = torch.empty_like(logits)
        for rows in _chunks(logits):
            weight = gradients[0][rows].unsqueeze(1)
            chunk = (logits[rows].to(totals.dtype) - totals[rows].unsqueeze(1)).exp_().mul_(-weight)
            found[rows] = chunk.scatter_add_(1, labels[rows].unsqueeze(1), weight)
        return found, None


def _chunks(logits: torch.Tensor) -> list[slice]:
    size = max(1, CHUNK_ELEMENTS // logits.shape[-1])
    return [slice(start, start + size) for start in range(0, len(logits), size)]


def install() -> None:
    """Let verl take these log-probs where it has no fused ones of flash-attn. Idempotent.

    Raises:
        RuntimeError: verl's function is not where it was.
    """
    from verl.utils import torch_functional

    if not hasattr(torch_functional, "logprobs_from_logits_v2"):
        raise RuntimeError("verl.utils.torch_functional.logprobs_from_logits_v2 is gone: install verl 0.9.1")
    torch_functional.logprobs_from_logits_v2 = chunked_log_probs
