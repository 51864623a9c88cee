"""Random pairs of distributions of every kind that divergences meet."""

from collections.abc import Iterator

import torch

VOCABS = (2, 3, 5, 11, 24, 50)
KINDS = ("equal", "near", "apart", "disjoint", "extreme", "ties", "zeros", "peaked")
PAIRS = 220


def logit_pairs(dtype: torch.dtype, seed: int = 0) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Name, rollout logits and trainer logits of shape (PAIRS, vocab), 10,560 pairs in all."""
    generator = torch.Generator().manual_seed(seed)
    for vocab in VOCABS:
        for kind in KINDS:
            rollout, logits = _pair(kind, vocab, generator)
            yield f"{kind}, vocab {vocab}", rollout.to(dtype), logits.to(dtype)


def _pair(kind: str, vocab: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    def normal(scale: float) -> torch.Tensor:
        return scale * torch.randn(PAIRS, vocab, dtype=torch.float64, generator=generator)

    rollout, moved = normal(2.0), normal(1.0)
    if kind == "equal":
        # the same distribution with another constant
        return rollout, rollout + normal(3.0)[:, :1]
    if kind == "near":
        return rollout, rollout + moved * 10 ** -(1 + normal(1.5)[:, :1].abs())
    if kind == "apart":
        return rollout, rollout + moved
    if kind == "disjoint":
        return normal(40.0), normal(40.0)
    if kind == "extreme":
        return normal(1.0).sign() * 1e4 + moved, normal(1.0).sign() * 1e4
    if kind == "ties":
        return rollout.round(), (rollout + moved).round()
    if kind == "peaked":
        return _with_one_sure_token(rollout, 15.0), _with_one_sure_token(rollout + 0.1 * moved, 15.0)
    return _with_zeros(rollout, generator), _with_zeros(rollout + moved, generator)


def _with_one_sure_token(logits: torch.Tensor, lead: float) -> torch.Tensor:
    logits = logits.clone()
    logits[:, 0] += lead
    return logits


def _with_zeros(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Excludes tokens, never all of a row; some rows exclude none, so that finite divergences occur as well."""
    shape = logits.shape
    excluded = torch.rand(shape, generator=generator) < torch.rand(shape[0], 1, generator=generator) - 0.3
    excluded[torch.arange(shape[0]), torch.randint(shape[1], (shape[0],), generator=generator)] = False
    return logits.masked_fill(excluded, -torch.inf)
