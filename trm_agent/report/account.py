"""An account of a run's change in success: the ways to fail, whose changes add up to it exactly."""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trm_agent.report.changes import welch
from trm_agent.report.curves import number
from trm_agent.runs.failures import (
    A_MALFORMED_CALL,
    AFTER_MALFORMED,
    CLEAN,
    LUCKY,
    SOLVED,
    WRONG,
    ending_family,
    ending_label,
    ending_slug,
)
from trm_agent.runs.rates import newcombe

FEWEST, LEAST, MOST = 8, 4, 10
"""Steps that a run must have, and steps on each side."""
SUCCESSES = (ending_slug(SOLVED), ending_slug(LUCKY))
NAME = re.compile(rf"({CLEAN}|{AFTER_MALFORMED})/h([0-9]{{1,18}}|None)/([a-z0-9_/]{{1,120}})")
Way = tuple[str, str]
"""Cause and member, as `way_to_end` has them."""
Shares = dict[tuple[str, Way], float]
"""(horizon, way to end) -> percent of a step's episodes."""


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
    ways: tuple[Way, ...]
    steps: Steps
    members: tuple["Part", ...] = ()
    """Of a family of mistakes, each of them, of a malformed call, each ending; those that gave most first."""


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
    causes: tuple[Part, ...]
    """Those that gave most first; a mistake without others of its family stands alone."""
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


def way_to_end(ending: str, malformed: bool) -> Way:
    """Return the cause and the member of it that an episode's ending stands for, each failure in one cause alone.

    The cause of a failure with a malformed call is that call, whatever ending followed, which is the member.

    Args:
        ending: such as `ran_out_of_tokens`.
        malformed: whether a call of the episode was malformed.

    Returns:
        Of a success, "" and the ending; of a mistake, its family if it has one, and its name.
    """
    if ending in SUCCESSES:
        return "", ending
    family, label = ending_family(ending), ending_label(ending)
    return (
        (A_MALFORMED_CALL, f"ending: {family or label.removeprefix(f'{WRONG}: ')}")
        if malformed
        else (family or label, label)
    )


def cause_name(ways: Collection[Way]) -> str:
    """Return the name of the cause of which these are all: a mistake without others of its family stands alone."""
    cause, member = next(iter(ways))
    return cause if len(ways) > 1 or cause == A_MALFORMED_CALL else member


def percent_of(step: Shares, ways: Collection[Way]) -> float:
    """Return how many of a step's episodes ended in one of the ways; rounded, so that equal sums are equal."""
    return round(math.fsum(share for (_, way), share in step.items() if way in ways), 9)


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

    def steps_of(ways: Collection[Way]) -> Steps:
        old, new = (tuple(percent_of(step, ways) for step in side) for side in (before, after))
        return old, new

    solved, lucky = (("", slug) for slug in SUCCESSES)
    steps = steps_of((solved, lucky))
    success = change_of(*steps)
    sign = -1 if success.difference < 0 else 1

    def part(name: str, ways: Iterable[Way], members: Iterable[Part] = ()) -> Part:
        own = (*ways,)
        return Part(name, change_of(*steps_of(own)), own, steps_of(own), ordered(members))

    def ordered(parts: Iterable[Part]) -> tuple[Part, ...]:
        return tuple(sorted(parts, key=lambda each: (sign * each.whole.difference, each.ending)))

    def cause(name: str, ways: Sequence[Way]) -> Part:
        members = [part(way[1], [way]) for way in ways]
        if len(ways) > 1 or (is_part and name != ways[0][1]):
            return part(name, ways, members)
        return part(cause_name(ways), ways)

    failed: dict[str, list[Way]] = {}
    for way in sorted({way for step in (*before, *after) for _, way in step if way[0]}):
        failed.setdefault(way[0], []).append(way)
    causes = ordered(cause(name, ways) for name, ways in failed.items())
    changed = change_of(*steps_of((lucky,)))
    return Account(first, last, success, steps, changed, success.complement, causes, horizons or {})


def shares_of(row: Mapping[str, Any]) -> Shares:
    """Return the shares of the ways to end of one step."""
    found: Shares = {}
    for name, value in row.items():
        share = number(value)
        if share is not None and (match := NAME.fullmatch(name)):
            key = match[2], way_to_end(match[3], match[1] == AFTER_MALFORMED)
            found[key] = found.get(key, 0.0) + 100 * share
    return found


def _within(side: Sequence[Shares], horizon: int) -> list[Shares]:
    """Return the shares among the episodes of one horizon, of the steps that have such episodes."""
    found = []
    for step in side:
        own = {key: share for key, share in step.items() if key[0] == str(horizon)}
        if total := sum(own.values()):
            found.append({key: 100 * share / total for key, share in own.items()})
    return found
