"""How costs grow with the tokens: powers, and the line through what attention leaves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_EXPLAINED = 0.98
"""R^2 of the line through what attention leaves, from which on it counts as linear."""
MOST_POWER = 1.2
"""Power of what attention leaves, up to which it counts as linear; a difference of two measurements."""


@dataclass(frozen=True)
class Cost:
    """What one update of a length takes."""

    tokens: int
    """Tokens of the trajectory."""
    seconds: float
    """Forward and backward pass with the loss."""
    attention_s: float
    """Attention's own part of it."""
    mib: float
    """Peak memory beyond the model and its gradients."""

    @property
    def rest_s(self) -> float:
        """Seconds of everything but attention."""
        return self.seconds - self.attention_s


@dataclass(frozen=True)
class Fit:
    """Attention's seconds as a * tokens^2, and the line through seconds - a * tokens^2."""

    per_token_pair: float
    """a of attention's own calls, seconds."""
    per_token: float
    """Slope of the line, seconds."""
    explained: float
    """R^2 of the line."""
    power: float
    """Power by which seconds beside attention's own calls grow; infinite where these took longer than all."""

    @property
    def is_linear(self) -> bool:
        """Whether what attention leaves grows linearly."""
        return self.explained >= LEAST_EXPLAINED and self.power <= MOST_POWER


def exponents(tokens: Sequence[int], values: Sequence[float]) -> list[float]:
    """Return the power of growth between each length and the next: 1 is linear, 2 quadratic.

    Args:
        tokens: lengths, growing.
        values: one for each; beside one that is not positive the power is NaN.
    """
    pairs = zip(zip(tokens, values, strict=True), zip(tokens[1:], values[1:], strict=True), strict=False)
    return [
        math.log(after / before) / math.log(more / fewer) if min(before, after) > 0 else math.nan
        for (fewer, before), (more, after) in pairs
    ]


def slope(tokens: Sequence[float], values: Sequence[float]) -> float:
    """Return the power of growth by least squares in the logarithms: 1 is linear, 2 quadratic.

    Args:
        tokens: lengths, two at least.
        values: positive, one for each.
    """
    x, y = [math.log(each) for each in tokens], [math.log(each) for each in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((each - mean_x) ** 2 for each in x)
    return sum((at - mean_x) * (value - mean_y) for at, value in zip(x, y, strict=True)) / spread


def fit(costs: Sequence[Cost]) -> Fit:
    """Fit attention's own seconds by a square, and what all seconds have beyond it by a line, by least squares."""
    squares = [cost.tokens**2 for cost in costs]
    pair = sum(cost.attention_s * square for cost, square in zip(costs, squares, strict=True)) / sum(
        square**2 for square in squares
    )
    tokens = [cost.tokens for cost in costs]
    rest = [cost.seconds - pair * square for cost, square in zip(costs, squares, strict=True)]
    mean_tokens, mean_rest = sum(tokens) / len(tokens), sum(rest) / len(rest)
    spread = sum((each - mean_tokens) ** 2 for each in tokens)
    per_token = sum((at - mean_tokens) * (took - mean_rest) for at, took in zip(tokens, rest, strict=True)) / spread
    left = sum((took - mean_rest - per_token * (at - mean_tokens)) ** 2 for at, took in zip(tokens, rest, strict=True))
    total = sum((took - mean_rest) ** 2 for took in rest)
    beside = [cost.rest_s for cost in costs]
    return Fit(pair, per_token, 1 - left / total, slope(tokens, beside) if min(beside) > 0 else math.inf)
