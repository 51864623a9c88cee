"""Sampled tokens as the engine and another side, the trainer or a second engine, see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True)
class Sampled:
    """Sampled tokens of one episode or of several, each array of shape (tokens,)."""

    depths: np.ndarray
    """Number of tokens before each."""
    log_probs: np.ndarray
    """The engine's, nats."""
    differences: np.ndarray
    """The other side's log-prob less the engine's, nats."""

    def at(self, chosen: np.ndarray) -> Sampled:
        """Return the tokens that a mask of shape (tokens,) chooses."""
        return Sampled(*(getattr(self, item.name)[chosen] for item in fields(self)))


def joined(parts: Sequence[Sampled]) -> Sampled:
    """Return the tokens of several episodes, one at least."""
    return Sampled(*(np.concatenate([getattr(part, item.name) for part in parts]) for item in fields(Sampled)))
