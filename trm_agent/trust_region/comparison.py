"""What every criterion would keep of one dump, side by side."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from trm_agent.core.controls import NUM_QUARTERS, length_quarters
from trm_agent.trust_region.analysis import Batch
from trm_agent.trust_region.criteria import CRITERIA
from trm_agent.trust_region.masking import decide
from trm_agent.trust_region.settings import TrmConfig

# the one control that no field of its row tells
_CONTROL = "inward"
COMPARED = tuple(
    name for name, row in CRITERIA.items() if name != _CONTROL and row.control is None and row.whole_batch is None
)
"""All criteria but the controls."""


@dataclass(frozen=True)
class Kept:
    """What one criterion keeps. Shares are of 1, None where there is nothing to keep."""

    criterion: str
    thresholds: dict[str, float]
    """Setting -> value."""
    acceptance: float | None
    """Share of the sequences that keep a token."""
    tokens: float | None
    """Share of the model's tokens."""
    tokens_positive: float | None
    """The same of tokens with A > 0."""
    tokens_negative: float | None
    """The same of tokens with A < 0."""
    tokens_longest: float | None
    """The same of tokens in the longest quarter of the sequences."""


def kept_by_criterion(batch: Batch, trm: TrmConfig) -> list[Kept]:
    """Let each criterion decide on the batch, at the thresholds of the settings.

    Args:
        batch: the rollouts.
        trm: the settings; their criterion is replaced, and one whose threshold is null there is left out.
    """
    tokens = batch.tokens
    everywhere = tokens.response_mask
    longest = (length_quarters(batch.lengths) == NUM_QUARTERS - 1).unsqueeze(-1)
    found = []
    for name in COMPARED:
        if any(getattr(trm, threshold.name) is None for threshold in CRITERIA[name].thresholds):
            continue
        tried = replace(trm, criterion=name, target_acceptance=None)
        kept = decide(tried, tokens)
        found.append(
            Kept(
                name,
                {field: getattr(tried, field) for field in tried.thresholds},
                _share(kept.any(dim=-1), everywhere.any(dim=-1)),
                _share(kept, everywhere),
                _share(kept, everywhere & (tokens.advantages > 0)),
                _share(kept, everywhere & (tokens.advantages < 0)),
                _share(kept, everywhere & longest),
            )
        )
    return found


def _share(kept: torch.Tensor, of: torch.Tensor) -> float | None:
    return (kept & of).sum().item() / of.sum().item() if of.any() else None
