"""A measurement as text and as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from trm_agent.numerics.depth import LARGE, SMALL, Bin, borders
from trm_agent.numerics.disturbance import DOUBT
from trm_agent.numerics.measuring import Measured, Pair
from trm_agent.numerics.spec import FLOAT32, NumericsSpec
from trm_agent.numerics.verdict import (
    FLOAT32_MEAN,
    HALF_KL,
    HALF_SOURCE,
    JUMPS,
    Verdict,
)
from trm_agent.trust_region.growth import FLAT, GROWING, NOISE, ROUNDING, STEEP

_COLUMNS = ("depth", "tokens", "mean |d|", "largest", "KL (k3)", "logits", f"> {SMALL:g}", f"> {LARGE:g}")


def as_text(measured: Measured, spec: NumericsSpec) -> str:
    """Return the tables and verdicts for people."""
    turns = [each.num_turns for episodes in measured.episodes.values() for each in episodes]
    engines = ", ".join(measured.episodes)
    lines = [
        f"{measured.label}: with the engine in {engines} {spec.episodes} episodes each to {measured.tokens:,} tokens, "
        f"{min(turns)} to {max(turns)} turns, answers of {measured.env_id}, seed {spec.seed}",
        f"d: log-prob of {_others(measured)} less the engine's, nats, of tokens that the engine sampled; depth: tokens "
        "before them",
        f"logits: mean |d| / (1 - p) of tokens of a probability p below {1 - DOUBT:g}, about the error of a logit",
    ]
    for pair in measured.pairs:
        lines += ["", *_table(pair), *_told(pair)]
    if any(not _is_float32(pair) for pair in measured.pairs):
        lines += ["", f"The limit of half precision, which mixtures of experts exceed: {HALF_SOURCE}"]
    return "\n".join(lines)


def as_json(measured: Measured, spec: NumericsSpec) -> dict[str, Any]:
    """Return the same as plain data."""
    return {
        "model": measured.label,
        "env": measured.env_id,
        "tokens": measured.tokens,
        "spec": asdict(spec),
        "turns": {name: [each.num_turns for each in episodes] for name, episodes in measured.episodes.items()},
        "pairs": [
            {
                "engine": pair.engine,
                pair.side: pair.other,
                "bins": [asdict(each) for each in pair.bins],
                "all": asdict(pair.whole),
                "verdict": _judged(pair.verdict),
            }
            for pair in measured.pairs
        ],
    }


def _judged(judged: Verdict) -> dict[str, Any]:
    """Return the verdict without infinity, which JSON does not have."""
    is_infinite = judged.ratio is not None and math.isinf(judged.ratio)
    ratio = None if is_infinite else judged.ratio
    return {**asdict(judged), "ratio": ratio, "equal_before": is_infinite, "is_healthy": judged.is_healthy}


def _others(measured: Measured) -> str:
    sides = dict.fromkeys(f"the {_words(pair.side)}" for pair in measured.pairs)
    return " or ".join(sides)


def _words(side: str) -> str:
    return side.replace("_", " ")


def _table(pair: Pair) -> list[str]:
    rows = [_row(f"{each.start:,} to {each.stop:,}", each) for each in pair.bins]
    rows.append(_row("all", pair.whole))
    return [f"engine {pair.engine}, {_words(pair.side)} {pair.other}", _line(_COLUMNS), *map(_line, rows)]


def _row(name: str, each: Bin) -> tuple[str, ...]:
    shares = (f"{100 * share:.2f} %" for share in (each.over_small, each.over_large))
    figures = (each.mean, each.largest, each.kl, each.logits)
    return name, f"{each.tokens:,}", *("-" if figure is None else f"{figure:.2e}" for figure in figures), *shares


def _line(cells: tuple[str, ...]) -> str:
    return f"  {cells[0]:<16}" + "".join(f"{cell:>11}" for cell in cells[1:])


def _told(pair: Pair) -> list[str]:
    judged = pair.verdict
    healthy = "healthy" if judged.is_healthy else "not healthy"
    return [
        f"Verdict: {_kind(judged)}; {healthy}: {_level(pair)}",
        f"First to check: {judged.first_check}",
    ]


def _kind(judged: Verdict) -> str:
    error = "" if judged.slope_error is None else f" +- {judged.slope_error:.2f}"
    equal = "" if judged.logits_slope is None else f", {_rounded(judged.logits_slope)} at equal certainty of the tokens"
    slope = "" if judged.slope is None else f"slope of log KL over log depth {_rounded(judged.slope)}{error}{equal}"
    return {
        FLAT: f"flat ({slope}; one below {STEEP})",
        GROWING: f"growing with depth ({slope}; flat is one below {STEEP})",
        JUMPS: f"jumps at a depth of {_place(judged.starts_at)} tokens{_alone(judged)}",
        ROUNDING: f"rounding alone (a KL below {NOISE:g} nats at every depth)",
    }.get(judged.kind, "too short to tell growth")


def _alone(judged: Verdict) -> str:
    if judged.ratio is None:
        return ""
    if math.isinf(judged.ratio):
        return ", before which logits are equal"
    return f", behind which logits are {judged.ratio:.1f} times as far apart as before"


def _place(depth: int | None) -> str:
    # between borders windows begin at every few tokens
    is_border = depth is not None and any(start == depth for start, _ in borders(depth + 1))
    return f"{depth}" if is_border else f"about {depth}"


def _rounded(slope: float) -> str:
    # without the sign of a zero
    return f"{round(slope, 2) + 0.0:.2f}"


def _is_float32(pair: Pair) -> bool:
    return pair.engine == pair.other == FLOAT32


def _level(pair: Pair) -> str:
    whole = pair.whole
    if _is_float32(pair):
        return f"mean |d| {whole.mean:.1e}, in float32 at most {FLOAT32_MEAN:g}"
    return f"KL {whole.kl:.1e} nats, in half precision at most {HALF_KL:g} for dense models"
