"""Whether the recorded log-probs are those that the sampler drew by: counted frequencies against them.

A ratio, a divergence and a mask take the recorded log-probs for granted, so none of them sees a sampler that drew by
others: at another temperature, or after a top-p cut that the record lacks. In each context the most likely token was
drawn or not, x_t, and the record says how likely that was, p_t. Whatever the contexts and however long the episodes,

    e(lambda) = prod_t exp(lambda x_t) / (1 - p_t + p_t exp(lambda)),   E[e(lambda)] = 1   if the record is true,

the likelihood ratio of a sampler whose odds of that token are exp(lambda) times the recorded ones. A mean of such
ratios has the expectation 1 too, so by Markov's inequality p = 1 / mean is a p-value for any number of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

EDGES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Borders of the buckets by p; the last one holds 1."""
LAMBDAS = tuple(sign * size for size in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6) for sign in (-1.0, 1.0))
"""Logs of the factors of the odds that are looked for: half as much is hardly seen, however many tokens there are."""
ALARM = 1e-3
"""p-value from which on a record is called false: of true ones at most this share is."""
LEAST_VARIANCE = 10.0
"""Expected variance of a bucket's count from which on its z is nearly normal."""


@dataclass(frozen=True)
class Bucket:
    """The tokens of contexts whose most likely token has a probability of [low, high)."""

    low: float
    """Least p."""
    high: float
    """Least p above them."""
    tokens: int
    """Number of drawn tokens."""
    expected: float
    """Share of draws of the most likely token by the record: the mean of p."""
    observed: float
    """Share that was drawn."""
    z: float | None
    """Difference of the counts over its standard deviation sqrt(sum p (1 - p)); None where that is too small."""


@dataclass(frozen=True)
class SamplerCheck:
    """Counted frequencies against recorded probabilities."""

    buckets: list[Bucket]
    """Those that hold a token, by p."""
    tokens: int
    """Number of drawn tokens."""
    z: float | None
    """That of all tokens as one bucket."""
    p_value: float
    """Of the hypothesis that the record is the sampler's; valid for any number of tokens."""

    @property
    def is_false(self) -> bool:
        """Return True if the recorded log-probs are not those of the sampler."""
        return self.p_value < ALARM

    def told(self) -> str:
        """Return the verdict in words."""
        if not self.is_false:
            return f"nothing speaks against it (p = {self.p_value:.2g}, {self.tokens} tokens)"
        excess = sum(each.tokens * (each.observed - each.expected) for each in self.buckets)
        often = "more" if excess > 0 else "less"
        first = (
            "a temperature below the recorded one, or a top-k, top-p or min-p cut that the record lacks"
            if excess > 0
            else "a temperature above the recorded one, or a penalty or a logits processor that the record lacks"
        )
        return (
            f"no: the most likely token was drawn {often} often than recorded (p = {self.p_value:.2g}, "
            f"{self.tokens} tokens). First to check: {first}"
        )


def check_sampler(probabilities: np.ndarray, drawn: np.ndarray) -> SamplerCheck | None:
    """Test the record.

    Args:
        probabilities: recorded probability of each context's most likely token, shape (tokens,).
        drawn: bool, whether that token was drawn, shape (tokens,).

    Returns:
        None without a token.

    Raises:
        ValueError: a probability is not above 0 and, up to rounding, at most 1.
    """
    if not len(probabilities):
        return None
    p = np.asarray(probabilities, dtype=np.float64)
    if not ((p > 0) & (p <= 1 + 1e-4)).all():
        raise ValueError(
            f"the recorded probability of a most likely token is {p[~((p > 0) & (p <= 1 + 1e-4))][0]:g}; allowed: "
            "above 0 and at most 1; dump again"
        )
    p, hits = np.minimum(p, 1.0), np.asarray(drawn, dtype=np.float64)
    place = np.minimum(np.searchsorted(EDGES, p, side="right") - 1, len(EDGES) - 2)

    def sums(values: np.ndarray) -> np.ndarray:
        return np.bincount(place, weights=values, minlength=len(EDGES) - 1)

    tokens, expected, observed, variance = (sums(values) for values in (np.ones_like(p), p, hits, p * (1 - p)))
    # log e, of each factor and bucket; the last column is all buckets as one
    logs = np.stack([scale * observed - sums(np.log1p(p * np.expm1(scale))) for scale in LAMBDAS])
    logs = np.concatenate([logs, logs.sum(axis=1, keepdims=True)], axis=1)
    largest = logs.max()
    evidence = largest + math.log(np.exp(logs - largest).mean())
    buckets = [
        Bucket(
            EDGES[index],
            EDGES[index + 1],
            int(tokens[index]),
            float(expected[index] / tokens[index]),
            float(observed[index] / tokens[index]),
            _z(observed[index] - expected[index], variance[index]),
        )
        for index in np.flatnonzero(tokens)
    ]
    whole = _z(observed.sum() - expected.sum(), variance.sum())
    return SamplerCheck(buckets, len(p), whole, float(math.exp(min(0.0, -evidence))))


class Played(Protocol):
    """An episode with what its policy found most likely; arrays of shape (tokens,)."""

    @property
    def step(self) -> int:
        """Step of the run."""

    @property
    def record(self) -> Mapping[str, Any]:
        """The episode's record."""

    @property
    def response_ids(self) -> np.ndarray:
        """Tokens of the response."""

    @property
    def response_mask(self) -> np.ndarray:
        """bool: sampled by the model."""

    @property
    def rollout_top_ids(self) -> np.ndarray | None:
        """Ids of the most likely tokens; None where they were not recorded."""

    @property
    def rollout_top_log_probs(self) -> np.ndarray | None:
        """Their log-probs, nats; None where they were not recorded."""


class Draws:
    """The draws of episodes, each episode once: several updates of a step dump the same one."""

    def __init__(self) -> None:
        self._known: set[int] = set()
        self._probabilities: list[np.ndarray] = []
        self._drawn: list[np.ndarray] = []

    def add(self, episode: Played) -> None:
        """Add an episode, unless it is known or holds no most likely tokens.

        Without its timings, which tell two equal episodes of a task apart, it is left out too.
        """
        ids, log_probs, timings = episode.rollout_top_ids, episode.rollout_top_log_probs, episode.record.get("timings")
        if ids is None or log_probs is None or not timings:
            return
        name = (episode.step, str(episode.record.get("task")), str(timings), episode.response_ids.tobytes())
        if hash(name) not in self._known:
            self._known.add(hash(name))
            mask = episode.response_mask
            self._probabilities.append(np.exp(log_probs[mask].astype(np.float64)))
            self._drawn.append(episode.response_ids[mask] == ids[mask])

    def check(self) -> SamplerCheck | None:
        """Test what was added; None without a token."""
        return check_sampler(np.concatenate(self._probabilities), np.concatenate(self._drawn)) if self._drawn else None


def selection(config: Mapping[str, Any]) -> str:
    """Return the setting by which a run leaves episodes out for how they went; "" for none.

    What is left is not what the sampler drew: the test would find the choice.

    Args:
        config: the composed configuration.
    """
    choices = {"algorithm.filter_groups.enable": True, "env.overlong.treatment": "mask"}
    if _at(config, "trainer.v1.trainer_mode") in ("colocate_async", "separate_async"):
        choices["trainer.v1.sampler.max_off_policy_strategy"] = "drop"
    for path, value in choices.items():
        if _at(config, path) == value:
            return f"{path}={str(value).lower()}"
    return ""


def rows_of(check: SamplerCheck) -> Sequence[tuple[str, ...]]:
    """Return the buckets as cells of a table: p, tokens, expected and observed share in percent, z."""
    return [
        (
            f"{each.low:g} to {each.high:g}",
            f"{each.tokens:,}",
            f"{100 * each.expected:.2f} %",
            f"{100 * each.observed:.2f} %",
            "-" if each.z is None else f"{each.z:+.1f}",
        )
        for each in check.buckets
    ]


def _at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = config.get(name) if isinstance(config, Mapping) else None
    return config


def _z(difference: float, variance: float) -> float | None:
    return float(difference / math.sqrt(variance)) if variance >= LEAST_VARIANCE else None
