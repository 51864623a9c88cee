"""Sequences that were sampled while the weights changed, and an update on them in a float64 loop over single tokens."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.core import reference, reference_criteria
from tests.core.reference_criteria import STATISTICS, Bounds, Sequence

VOCAB, LONGEST, NEWEST = 6, 12, 4
# oldest and newest version of a sequence: spans 0, 1, 2, 4; in a step that begins with NEWEST lags 0, 1, 2, 4
PAIRS = ((4, 4), (3, 3), (3, 4), (2, 4), (0, 4), (2, 3))
# what a version changes of each logit
DRIFT = 0.12
# of lags and spans, which stands for those beyond it too
MOST = 3


@dataclass(frozen=True)
class Played:
    """A sequence; the model sampled its tokens with a version."""

    tokens: list[int]
    """The prompt's one token, and those of the response."""
    versions: list[int]
    """Of each token of the response, -1 where the model did not sample it."""
    log_probs: list[float]
    """As they were recorded, each under the version of its token, nats; 0 where it has none."""
    advantage: float
    decided: bool
    """What a criterion that decides on all sequences at once has decided."""

    def places(self) -> list[int]:
        """Places in the response of the tokens that the model sampled."""
        return [place for place, version in enumerate(self.versions) if version >= 0]


def versions(rng: np.random.Generator) -> list[np.ndarray]:
    """The policies of the versions 0 to NEWEST: logits of a token by the one before it, shape (VOCAB, VOCAB)."""
    found = [rng.normal(size=(VOCAB, VOCAB))]
    for _ in range(NEWEST):
        found.append(found[-1] + DRIFT * rng.normal(size=(VOCAB, VOCAB)))
    return found


def play(rng: np.random.Generator, policies: list[np.ndarray], number: int) -> Played:
    """Sample a sequence with one version up to a place and another after it; a quarter are tokens of a tool."""
    oldest, newest = PAIRS[number % len(PAIRS)]
    length = int(rng.integers(1, LONGEST + 1))
    change = int(rng.integers(1, length + 1))
    tokens, of_tokens, log_probs = [int(rng.integers(VOCAB))], [], []
    for place in range(length):
        version = oldest if place < change else newest
        values = log_softmax(policies[version][tokens[-1]])
        token = int(rng.choice(VOCAB, p=np.exp(values)))
        sampled = place == 0 or rng.random() > 0.25
        tokens.append(token)
        of_tokens.append(version if sampled else -1)
        log_probs.append(float(values[token]) if sampled else 0.0)
    return Played(tokens, of_tokens, log_probs, float(rng.normal()), bool(rng.random() < 0.6))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


@dataclass
class Count:
    """The tokens of a lag or of a span, and the sequences that have it."""

    tokens: int = 0
    kept: int = 0
    kl: float = 0.0
    accepted: list[bool] = field(default_factory=list)

    def sums(self, name: str, tokens: int, sequences: int) -> dict[str, tuple[float, float]]:
        """What the metrics are quotients of, among so many tokens and sequences."""
        return {
            f"tokens_{name}": (self.tokens, tokens),
            f"kept_tokens_{name}": (self.kept, self.tokens),
            f"token_kl_mean_{name}": (self.kl, self.tokens),
            f"sequences_{name}": (len(self.accepted), sequences),
            f"acceptance_{name}": (sum(self.accepted), len(self.accepted)),
        }


@dataclass
class Expected:
    """What an update comes to."""

    loss: float = 0.0
    gradient: np.ndarray = field(default_factory=lambda: np.zeros((VOCAB, VOCAB)))
    """By the logits of the policy."""
    sums: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Numerator and denominator of each metric by lag and by span, and of the acceptance of all."""
    kept: float = 0.0
    """Share of the tokens that have a gradient."""

    @property
    def metrics(self) -> dict[str, float]:
        return {name: numerator / of for name, (numerator, of) in self.sums.items() if of}


def told(each: Played, policy: np.ndarray, settings: Mapping[str, Any]) -> Sequence:
    """The sequence as the loops of the criteria read it: against the version that sampled each token."""
    pairs = [(our(each, place, policy), each.log_probs[place]) for place in each.places()]
    for_max, for_avg = (
        [reference.token_divergence(*pair, settings[name]) for pair in pairs]
        for name in ("max_estimator", "avg_estimator")
    )
    tv = [abs(math.exp(one) - math.exp(other)) for one, other in pairs]
    ratios = [math.exp(one - other) for one, other in pairs]
    bounds = (Bounds(values, values) for values in (for_max, for_avg, tv))
    return Sequence(*bounds, ratios, [each.advantage] * len(pairs), each.decided)


def our(each: Played, place: int, policy: np.ndarray) -> float:
    """Log-prob of a token of the response under the policy in training."""
    return float(log_softmax(policy[each.tokens[place]])[each.tokens[place + 1]])


def expect(played: list[Played], policy: np.ndarray, settings: Mapping[str, Any], step: int) -> Expected:
    """Take an update of a step, which began with version `step` - 1, token by token."""
    found = Expected()
    by_lag, by_span = ([Count() for _ in range(MOST + 1)] for _ in range(2))
    by_sign: dict[str, list[bool]] = {
        f"{sign}_span_{span}": [] for sign in ("positive", "negative") for span in range(MOST + 1)
    }
    for each in played:
        kept, _ = reference_criteria.kept_tokens(settings["criterion"], told(each, policy, settings), settings)
        lags = [step - 1 - each.versions[place] for place in each.places()]
        span = min(max(lags) - min(lags), MOST)
        for place, lag, stays in zip(each.places(), lags, kept, strict=True):
            moved = our(each, place, policy) - each.log_probs[place]
            for count in (by_lag[min(lag, MOST)], by_span[span]):
                count.tokens += 1
                count.kept += stays
                count.kl += math.exp(moved) - 1 - moved
            if stays:
                before, token = each.tokens[place : place + 2]
                weight = each.advantage * math.exp(moved) / len(played)
                found.loss -= weight
                found.gradient[before] += weight * np.exp(log_softmax(policy[before]))
                found.gradient[before, token] -= weight
        for stays_of in (by_lag[min(max(lags), MOST)], by_span[span]):
            stays_of.accepted.append(any(kept))
        by_sign[f"{'positive' if each.advantage > 0 else 'negative'}_span_{span}"].append(any(kept))
    total = sum(count.tokens for count in by_lag)
    found.kept = sum(count.kept for count in by_lag) / total
    found.sums["acceptance"] = (sum(sum(values) for values in by_sign.values()), len(played))
    for kind, counts in (("lag", by_lag), ("span", by_span)):
        for number, count in enumerate(counts):
            found.sums |= count.sums(f"{kind}_{number}", total, len(played))
    for name, values in by_sign.items():
        found.sums |= {
            f"sequences_{name}": (len(values), len(played)),
            f"acceptance_{name}": (sum(values), len(values)),
        }
    return found


def targets(
    parts: Iterable[str], played: list[Played], policy: np.ndarray, settings: Mapping[str, Any], share: float
) -> dict[str, float]:
    """Field -> the least threshold: those at one rank of the parts' statistics that keep a share together."""
    sequences = [told(each, policy, settings) for each in played]
    values = {STATISTICS[part][1]: [STATISTICS[part][0](each, settings) for each in sequences] for part in parts}
    for rank in range(len(played)):
        found = {name: sorted(column)[rank] for name, column in values.items()}
        if np.mean([all(values[name][row] <= found[name] for name in found) for row in range(len(played))]) >= share:
            return found
    raise AssertionError("the largest of all keep all")
