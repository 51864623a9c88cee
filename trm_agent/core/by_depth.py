"""Statistics by depth: the tokens before a token in its context, those of the prompt and of tools included.

The bins double, so that a divergence that grows with a power of the depth is a straight line over them.
"""

import torch

from trm_agent.core.block_sums import BlockSums, block_sums
from trm_agent.core.ratios import Ratio, ratios

FIRST_DEPTHS = (0, *(64 * 2**octave for octave in range(12)))
"""Depths at which the bins begin: 0, 64, 128, 256, ..., 131,072 and beyond."""
NUM_DEPTHS = len(FIRST_DEPTHS)


def depth_statistics(
    prompt_lengths: torch.Tensor,
    positions: torch.Tensor,
    kept: torch.Tensor,
    kl: BlockSums,
    known: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Measure a batch by depth.

    Args:
        prompt_lengths: tokens before the response, shape (batch,).
        positions: how many tokens the model has sampled until each, `response_mask.cumsum(-1)`, shape (batch,
            response_length), of a length of 1 or more.
        kept: bool, tokens with a gradient, same shape; or shape (batch,), sequences whose tokens all have one.
        kl: of the divergences of the average criterion, 0 where the mask is False or nothing is known, nats.
        known: `positions` of the tokens alone whose divergence is known; None for all of them.

    Returns:
        By depth, shape (batch, NUM_DEPTHS): `tokens`, `kept` ones, those whose divergence is `known`, and of these the
        float64 sums of their `depth` and `kl`. A sequence with a divergence that is not finite may have NaN in all of
        its sums.
    """
    # a bin is a stretch of the response, since a depth is the prompt's length and the place in it
    length = positions.shape[-1]
    inner = torch.tensor(FIRST_DEPTHS[1:], device=prompt_lengths.device) - prompt_lengths.unsqueeze(-1)
    borders = torch.nn.functional.pad(inner.clamp(min=0, max=length), (1, 0))
    borders = torch.nn.functional.pad(borders, (0, 1), value=length)
    before = _at(positions, borders).long()
    tokens = num_known = before.diff(dim=-1)
    if known is not None:
        positions, before = known, _at(known, borders).long()
        num_known = before.diff(dim=-1)
    # sum over the first b places of t m_t = b m(b) - sum over them of m(t + 1), where m counts the tokens before
    places = (borders * before).diff(dim=-1) - block_sums(positions).between(borders)
    if kept.ndim == 1:
        kept_tokens = torch.where(kept.unsqueeze(-1), tokens, 0)
    else:
        kept_tokens = _at(kept.cumsum(dim=-1, dtype=torch.int32), borders).diff(dim=-1)
    return {
        "tokens": tokens,
        "kept": kept_tokens,
        "known": num_known,
        "depth": (places + prompt_lengths.unsqueeze(-1) * num_known).double(),
        "kl": kl.between(borders),
    }


def depth_metrics(by_depth: dict[str, torch.Tensor], finite: torch.Tensor) -> dict[str, Ratio]:
    """Form the metrics of each bin of depth.

    Args:
        by_depth: rows of `depth_statistics`; empty where depths are not known.
        finite: bool, sequences that count in means, shape (batch,).

    Returns:
        Name -> ratio, for every bin; nothing occurs in one that holds no token.
    """
    if not by_depth:
        return {}
    tokens, kept = (by_depth[name].double().sum(dim=0) for name in ("tokens", "kept"))
    known, depth, kl = (by_depth[name][finite].double().sum(dim=0) for name in ("known", "depth", "kl"))
    one = tokens.new_ones(())
    metrics = ratios([f"num_tokens_depth_{first}" for first in FIRST_DEPTHS], tokens, one, tokens)
    metrics |= ratios([f"kept_tokens_depth_{first}" for first in FIRST_DEPTHS], kept, tokens)
    # told where these are not all
    metrics |= ratios([f"num_known_tokens_depth_{first}" for first in FIRST_DEPTHS], known, one, tokens - known)
    metrics |= ratios([f"mean_depth_{first}" for first in FIRST_DEPTHS], depth, known)
    metrics |= ratios([f"token_kl_mean_depth_{first}" for first in FIRST_DEPTHS], kl, known)
    return metrics


def _at(prefix: torch.Tensor, borders: torch.Tensor) -> torch.Tensor:
    """Take the sums of the first b values from those of the first t, which stand at t - 1."""
    found = prefix.gather(-1, (borders - 1).clamp(min=0))
    return torch.where(borders > 0, found, torch.zeros_like(found))
