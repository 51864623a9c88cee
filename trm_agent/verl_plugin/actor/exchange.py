"""Ulysses: ranks trade parts of the tokens with all heads for all tokens with a part of the heads, and back.

Attention needs all tokens of a sequence, and each head is alone; everything else in a model needs all features of a
token, and each token is alone. So ranks hold parts of the tokens, and parts of the heads inside the attention.
"""

import math
from typing import Any

import torch


def heads_of_all_tokens(states: torch.Tensor, group: Any) -> torch.Tensor:
    """Give the tokens of this rank away and take those of all ranks, of this rank's share of the heads.

    Args:
        states: shape (1, heads, tokens of this rank, width); the same on every rank.
        group: of torch.distributed, whose size divides the heads.

    Returns:
        Shape (1, heads / ranks, tokens, width), tokens and heads in their order.
    """
    ranks = torch.distributed.get_world_size(group)
    parts = states.squeeze(0).unflatten(0, (ranks, -1))
    return _Traded.apply(parts, group).transpose(0, 1).flatten(1, 2).unsqueeze(0)


def tokens_of_all_heads(states: torch.Tensor, group: Any) -> torch.Tensor:
    """Undo `heads_of_all_tokens`.

    Args:
        states: shape (1, heads / ranks, tokens, width).
        group: of torch.distributed, whose size divides the tokens.

    Returns:
        Shape (1, heads, tokens of this rank, width).
    """
    ranks = torch.distributed.get_world_size(group)
    parts = states.squeeze(0).unflatten(1, (ranks, -1)).transpose(0, 1)
    return _Traded.apply(parts, group).flatten(0, 1).unsqueeze(0)


def repeated_for_ranks(states: torch.Tensor, ranks: int) -> torch.Tensor:
    """Repeat the heads of keys or values, each behind itself, as often as it takes for ranks to divide them.

    Args:
        states: shape (1, key heads, tokens, width).
        ranks: a number that divides the heads of the queries.

    Returns:
        Shape (1, key heads times the least number of repetitions, tokens, width): still a divisor of the query's heads.
    """
    times = ranks // math.gcd(states.shape[1], ranks)
    return states if times == 1 else states.repeat_interleave(times, dim=1)


class _Traded(torch.autograd.Function):
    """Send the i-th slice to rank i, for one that it has for this rank; gradients travel the same way back."""

    @staticmethod
    def forward(ctx: Any, parts: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group = group
        parts = parts.contiguous()
        received = torch.empty_like(parts)
        torch.distributed.all_to_all_single(received, parts, group=group)
        return received

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, None]:
        return _Traded.apply(gradients[0], ctx.group), None
