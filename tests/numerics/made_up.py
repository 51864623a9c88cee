"""Made-up episodes: distributions over a few words, whose logits are disturbed."""

from collections.abc import Callable

import numpy as np

from trm_agent.numerics.disturbance import WINDOW
from trm_agent.numerics.sampled import Sampled

WORDS, NOISE = 32, 0.05
OfDepth = Callable[[np.ndarray], np.ndarray]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def steady(depths: np.ndarray) -> np.ndarray:
    return np.full(len(depths), NOISE)


def behind(depth: int, times: float, window: int = WINDOW) -> OfDepth:
    """Errors that are so many times larger in the window behind a depth."""
    return lambda depths: np.where((depths >= depth) & (depths < depth + window), times * NOISE, NOISE)


def episode(
    seed: int,
    length: int = 2400,
    noise: OfDepth = steady,
    spread: OfDepth = lambda depths: np.full(len(depths), 3.0),
) -> Sampled:
    """Two of three tokens of a context, drawn from logits; the trainer's have errors of a size by depth besides."""
    random = np.random.default_rng(seed)
    depths = np.flatnonzero(random.random(length) < 2 / 3)
    logits = random.normal(size=(len(depths), WORDS)) * spread(depths)[:, None]
    engine = log_softmax(logits)
    # the largest sum with Gumbel's noise is a draw
    drawn = (engine + random.gumbel(size=engine.shape)).argmax(axis=-1)
    trainer = log_softmax(logits + random.normal(size=logits.shape) * noise(depths)[:, None])
    rows = np.arange(len(depths))
    return Sampled(depths, engine[rows, drawn], trainer[rows, drawn] - engine[rows, drawn])
