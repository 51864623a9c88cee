"""Float64 loops of every criterion over one sequence, written from docs/math.md and sharing nothing with trm_agent."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from . import reference

Settings = Mapping[str, Any]


@dataclass
class Bounds:
    """Lower and upper bound of each token's divergence; the same list where it is known."""

    lower: list[float]
    upper: list[float]


@dataclass
class Sequence:
    """The model's tokens of one sequence."""

    for_max: Bounds
    for_avg: Bounds
    tv: Bounds
    ratios: list[float]
    advantages: list[float]
    decided: bool = True
    """What was decided on the whole update, for the criteria that need it."""

    def at(self, bound: str) -> "Sequence":
        one = {name: Bounds(*[getattr(getattr(self, name), bound)] * 2) for name in ("for_max", "for_avg", "tv")}
        return replace(self, **one)


def running_means(values: list[float]) -> list[float]:
    return [sum(values[: m + 1]) / (m + 1) for m in range(len(values))]


def length_neutral(sequence: Sequence, settings: Settings) -> float:
    weighted = total = 0.0
    for t, ratio in enumerate(sequence.ratios, start=1):
        left = len(sequence.ratios) - t
        weight = min(1.0, math.sqrt(left * settings["max_token_kl"] / 2))
        weighted += weight * abs(ratio - 1)
        total += weight
    return weighted / total if total else 0.0


def outward(sequence: Sequence, t: int) -> bool:
    return sequence.advantages[t] * (sequence.ratios[t] - 1) > 0


# criterion -> its statistic, of a sequence whose divergences are one bound, and the setting that it is compared with
STATISTICS: dict[str, tuple[Callable[[Sequence, Settings], float], str]] = {
    "max": (lambda s, _: max(s.for_max.upper), "max_token_kl"),
    "avg": (lambda s, _: sum(s.for_avg.upper) / len(s.ratios), "avg_token_kl"),
    "ln": (length_neutral, "length_neutral"),
    "ser": (lambda s, _: sum(abs(ratio - 1) for ratio in s.ratios) / len(s.ratios), "ratio_deviation"),
    "directional": (
        lambda s, _: max([kl for t, kl in enumerate(s.for_max.upper) if outward(s, t)], default=0.0),
        "max_token_kl",
    ),
    "inward": (
        lambda s, _: max([kl for t, kl in enumerate(s.for_max.upper) if not outward(s, t)], default=0.0),
        "max_token_kl",
    ),
    "negative_only": (lambda s, _: max(s.for_max.upper) if s.advantages[0] < 0 else 0.0, "max_token_kl"),
    "prefix_avg": (lambda s, _: max(running_means(s.for_avg.upper)), "avg_token_kl"),
}
PARTS = {"both": ("max", "avg")}


def before(sequence: Sequence, is_outside: Callable[[int], bool]) -> list[bool]:
    kept: list[bool] = []
    for t in range(len(sequence.ratios)):
        kept.append(all(kept) and not is_outside(t))
    return kept


# of divergences that are one bound
TOKENS: dict[str, Callable[[Sequence, Settings], list[bool]]] = {
    "token": lambda s, of: [kl <= of["max_token_kl"] for kl in s.for_max.upper],
    "stop": lambda s, of: before(s, lambda t: s.for_max.upper[t] > of["max_token_kl"]),
    "stop_directional": lambda s, of: before(s, lambda t: s.for_max.upper[t] > of["max_token_kl"] and outward(s, t)),
    "stop_cumulative": lambda s, of: before(s, lambda t: sum(s.for_avg.upper[: t + 1]) > of["cumulative_kl"]),
    "prefix": lambda s, of: reference.prefix_budget_kept(
        s.tv.upper,
        s.ratios,
        s.advantages,
        of["token_tv"],
        of["min_position_weight"],
        of["prefix_budget"],
        of["adaptive_budget"],
    ),
    "opsm": lambda s, of: reference.opsm_kept(s.ratios, s.advantages, of["opsm_delta"], of["opsm_clip"]),
}


def outside(name: str, sequence: Sequence, settings: Settings) -> dict[str, bool]:
    """Part -> whether the sequence is outside of it, by the rule for the undecided."""
    statistic, threshold = STATISTICS[name]
    bound = "upper" if settings["undecided"] == "reject" else "lower"
    return {name: not statistic(sequence.at(bound), settings) <= settings[threshold]}


def deciding(name: str, settings: Settings) -> str:
    """The criterion whose decisions are kept or turned round."""
    return settings["controlled"] if name == "inverse" else name


def num_undecided_tokens(name: str, sequence: Sequence, settings: Settings) -> int:
    """Tokens that stay by one bound alone; under a mask of sequences those with the threshold between the bounds."""
    name = deciding(name, settings)
    if name in TOKENS:
        low, high = (TOKENS[name](sequence.at(bound), settings) for bound in ("lower", "upper"))
        return sum(one != other for one, other in zip(low, high, strict=True))
    pairs = zip(sequence.for_max.lower, sequence.for_max.upper, strict=True)
    return sum(low <= settings["max_token_kl"] < high for low, high in pairs)


def is_undecided(name: str, sequence: Sequence, settings: Settings) -> bool:
    name = deciding(name, settings)
    if name in TOKENS:
        return num_undecided_tokens(name, sequence, settings) > 0
    open_ = []
    for part in PARTS.get(name, (name,)):
        if part in STATISTICS:
            statistic, threshold = STATISTICS[part]
            low, high = (statistic(sequence.at(bound), settings) for bound in ("lower", "upper"))
            open_.append(low <= settings[threshold] < high)
    return any(open_)


def kept_tokens(name: str, sequence: Sequence, settings: Settings) -> tuple[list[bool], dict[str, bool]]:
    """The tokens that stay, and part -> whether it rejects the sequence."""
    size = len(sequence.ratios)
    if name in TOKENS:
        kept = TOKENS[name](sequence.at("upper" if settings["undecided"] == "reject" else "lower"), settings)
        return kept, {name: not any(kept)}
    if name == "inverse":
        other = settings["controlled"]
        controlled, _ = kept_tokens(other, sequence, settings)
        reason = f"inverse_of_{other}" if other in TOKENS else "inverse"
        return [not kept for kept in controlled], {reason: all(controlled)}
    if name in ("random", "permuted", "yoked"):
        return [sequence.decided] * size, {name: not sequence.decided}
    reasons: dict[str, bool] = {}
    for part in PARTS.get(name, (name,)):
        reasons |= outside(part, sequence, settings)
    return [not any(reasons.values())] * size, reasons


def acceptance_by_length(lengths: list[int], accepted: list[bool]) -> list[float]:
    """Mean acceptance of each quarter: every sequence is cut into pieces small enough for any border."""
    rate = {length: [] for length in lengths}
    for length, kept in zip(lengths, accepted, strict=True):
        rate[length].append(kept)
    pieces = [sum(rate[length]) / len(rate[length]) for length in sorted(lengths) for _ in range(4)]
    return [sum(pieces[q * len(lengths) : (q + 1) * len(lengths)]) / len(lengths) for q in range(4)]
