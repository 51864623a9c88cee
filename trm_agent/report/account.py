"""An account of a run's change in success: the ways to fail, whose changes add up to it exactly."""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trm_agent.report.changes import welch
from trm_agent.report.curves import number
from trm_agent.runs.failures import AFTER_MALFORMED, CLEAN, LUCKY, SOLVED, ending_family, ending_label, ending_slug
from trm_agent.runs.rates import newcombe

FEWEST, LEAST, MOST = 8, 4, 10
"""Steps that a run must have, and steps on each side."""
SUCCESSES = (ending_slug(SOLVED), ending_slug(LUCKY))
NAME = re.compile(rf"({CLEAN}|{AFTER_MALFORMED})/h([0-9]{{1,18}}|None)/([a-z0-9_/]{{1,120}})")
Shares = dict[tuple[str, str, bool], float]
"""(horizon, ending, whether a call was malformed) -> percent of a step's episodes."""


@dataclass(frozen=True)
class Change:
    """Means over the first and the last steps, in percent of the episodes."""

    before: float
    after: float
    difference: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the 95 % interval leaves 0 out."""
        return abs(self.difference) > 1e-9 and (self.low > 0 or self.high < 0)

    @property
    def complement(self) -> "Change":
        """The change of the episodes outside the share."""
        return Change(100 - self.before, 100 - self.after, 0.0 - self.difference, -self.high, -self.low)


Steps = tuple[tuple[float, ...], tuple[float, ...]]
"""Percent of each step's episodes, of the first steps and of the last."""


@dataclass(frozen=True)
class Part:
    """A way to fail."""

    ending: str
    whole: Change
    clean: Change
    """Without a malformed call."""
    malformed: Change
    """After a malformed call."""
    slugs: tuple[str, ...]
    """Its endings, as parts of metrics' names."""
    steps: Steps
    members: tuple["Part", ...] = ()
    """Of a family of mistakes, each of them; those that gave most first."""


@dataclass(frozen=True)
class Account:
    """The change of a run, or of its episodes of one horizon."""

    first: str
    """Name of the first steps, such as `steps 1 to 10`."""
    last: str
    success: Change
    steps: Steps
    """Of success."""
    lucky: Change
    """Of the successes, those with a wrong call."""
    failures: Change
    clean: Change
    """Failures without a malformed call."""
    malformed: Change
    """Failures after a malformed call."""
    parts: tuple[Part, ...]
    """Those that gave most first."""
    causes: tuple[Part, ...]
    """The same, the mistakes of a family taken together; one without others of its family stands alone."""
    horizons: dict[int, "Account"]
    """The same of the episodes of one horizon, in percent of these; empty with one horizon."""


def sides(steps: Sequence[Mapping[str, Any]]) -> tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]:
    """Return the first and the last steps: an eighth of them, at least four and at most ten."""
    side = min(MOST, max(LEAST, len(steps) // 8))
    return steps[:side], steps[-side:]


def named(steps: Sequence[Mapping[str, Any]]) -> str:
    """Return the name of a side."""
    return f"steps {steps[0].get('step')} to {steps[-1].get('step')}"


def change_of(old: Sequence[float], new: Sequence[float]) -> Change:
    """Return the change between two sides, each of at least two steps, in percent.

    Where no step of a side differs from another, Newcombe's interval with the steps as trials: equal steps do not make
    a change certain.
    """
    difference, low, high = welch(old, new)
    before, after = math.fsum(old) / len(old), math.fsum(new) / len(new)
    if low == high:
        rates = (min(1.0, max(0.0, mean / 100)) for mean in (before, after))
        low, high = (100 * end for end in newcombe(next(rates), len(old), next(rates), len(new)))
    return Change(before, after, difference, max(-100.0, low), min(100.0, high))


def account_of(steps: Sequence[Mapping[str, Any]]) -> Account | None:
    """Return the account of a run.

    Args:
        steps: the rows of its metrics that tell a success, in order.

    Returns:
        None with too few steps, or where the shares of endings are missing or do not add up, as in older runs.
    """
    if len(steps) < FEWEST:
        return None
    first, last = sides(steps)
    before, after = ([shares_of(row) for row in part] for part in (first, last))
    if any(abs(sum(shares.values()) - 100) > 0.01 for shares in (*before, *after)):
        return None
    names = named(first), named(last)
    horizons = sorted({int(key[0]) for shares in (*before, *after) for key in shares if key[0] != "None"})
    by_horizon = {
        horizon: _account(*names, _within(before, horizon), _within(after, horizon), is_part=True)
        for horizon in horizons
    }
    told = {horizon: found for horizon, found in by_horizon.items() if found is not None}
    return _account(*names, before, after, told if len(horizons) > 1 else {})


def ending_percent(step: Shares, endings: Collection[str], marks: Collection[bool] = (False, True)) -> float:
    """Return how many of a step's episodes had one of the endings; rounded, so that equal sums are equal."""
    return round(sum(v for (_, ending, mark), v in step.items() if ending in endings and mark in marks), 9)


def _account(
    first: str,
    last: str,
    before: Sequence[Shares],
    after: Sequence[Shares],
    horizons: dict[int, Account] | None = None,
    *,
    is_part: bool = False,
) -> Account | None:
    if min(len(before), len(after)) < 2:
        return None

    def steps_of(endings: Collection[str], marks: Collection[bool]) -> Steps:
        old, new = (tuple(ending_percent(step, endings, marks) for step in side) for side in (before, after))
        return old, new

    def of(endings: Collection[str], *marks: bool) -> Change:
        return change_of(*steps_of(endings, marks))

    found = {ending for step in (*before, *after) for _, ending, _ in step} - {*SUCCESSES}
    both = (False, True)
    success = of(SUCCESSES, *both)
    sign = -1 if success.difference < 0 else 1

    def part(name: str, endings: Iterable[str], members: Iterable[Part] = ()) -> Part:
        own = (*endings,)
        return Part(name, of(own, *both), of(own, False), of(own, True), own, steps_of(own, both), tuple(members))

    def ordered(parts: Iterable[Part]) -> tuple[Part, ...]:
        return tuple(sorted(parts, key=lambda each: (sign * each.whole.difference, each.ending)))

    parts = {each: part(ending_label(each), [each]) for each in found}
    families: dict[str, list[str]] = {}
    for each in found:
        families.setdefault(ending_family(each) or each, []).append(each)
    causes = [
        part(family, own, ordered(parts[each] for each in own))
        if len(own) > 1 or (is_part and family != own[0])
        else parts[own[0]]
        for family, own in families.items()
    ]
    lucky, clean, malformed = of(SUCCESSES[1:], *both), of(found, False), of(found, True)
    return Account(
        first,
        last,
        success,
        steps_of(SUCCESSES, both),
        lucky,
        success.complement,
        clean,
        malformed,
        ordered(parts.values()),
        ordered(causes),
        horizons or {},
    )


def shares_of(row: Mapping[str, Any]) -> Shares:
    """Return the shares of the endings of one step."""
    found: Shares = {}
    for name, value in row.items():
        share = number(value)
        if share is not None and (match := NAME.fullmatch(name)):
            found[match[2], match[3], match[1] == AFTER_MALFORMED] = 100 * share
    return found


def _within(side: Sequence[Shares], horizon: int) -> list[Shares]:
    """Return the shares among the episodes of one horizon, of the steps that have such episodes."""
    found = []
    for step in side:
        own = {key: share for key, share in step.items() if key[0] == str(horizon)}
        if total := sum(own.values()):
            found.append({key: 100 * share / total for key, share in own.items()})
    return found
