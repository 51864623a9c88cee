"""Shares of a change with their intervals, the rest of it, and ways to fail that were frequent only in between."""

from collections.abc import Mapping, Sequence
from typing import Any

from trm_agent.report.account import Account, Change, Part, cause_name, change_of, named, percent_of, shares_of, sides
from trm_agent.report.changes import welch
from trm_agent.report.words import quoted

NUM_WINDOWS = 3
"""Windows between the first and the last steps, at most; none is shorter than these sides."""
STRICTER = 1.5
"""Factor of the intervals' widths, since the highest of several windows is looked at."""


def share_of(part: Part, account: Account) -> str:
    """Return a part's share of the change with its 95 % interval, in percent; "" where nothing is explained.

    The interval is Welch's over the steps' `part - share * failures`, whose change is 0 (the delta method); steps that
    are all alike, and a part that is all of the change, have none.
    """
    total = account.failures.difference
    if not account.success.is_clear:
        return ""
    share = part.whole.difference / total
    old, new = (
        [own - share * (100 - success) for own, success in zip(*both, strict=True)]
        for both in zip(part.steps, account.steps, strict=True)
    )
    difference, _, high = welch(old, new)
    half = abs(100 * (high - difference) / total)
    low, middle, above = (f"{round(100 * share + end) + 0:d}" for end in (-half, 0, half))
    return f"{middle} % [{low}, {above}]" if half > 1e-6 else f"{middle} %"


def rest_of(named_parts: Sequence[Part], account: Account) -> Change | None:
    """Return the change of all failures but those named; None where these are all."""
    if len(named_parts) == len(account.causes):
        return None
    old, new = (
        [max(0.0, round(100 - success - sum(own), 6)) for success, *own in zip(*each, strict=True)]
        for each in zip(account.steps, *(part.steps for part in named_parts), strict=True)
    )
    return change_of(old, new)


def risen_between(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the causes that were clearly more frequent in steps between the first and the last than in both."""
    ends, shares = sides(steps), [shares_of(row) for row in steps]
    size = len(ends[0])
    length = max(size, (len(steps) - 2 * size) // NUM_WINDOWS)
    starts = range(size, len(steps) - size - length + 1, length)
    found = []
    for name in sorted({way[0] for step in shares for _, way in step if way[0]}):
        ways = {way for step in shares for _, way in step if way[0] == name}
        rates = [percent_of(step, ways) for step in shares]
        for at in sorted(starts, key=lambda at: -sum(rates[at : at + length]))[:1]:
            own, first, last = rates[at : at + length], rates[:size], rates[-size:]
            if _is_above(own, first) and _is_above(own, last):
                height, before, after = (sum(each) / len(each) for each in (own, first, last))
                told = (
                    f"{quoted(cause_name(ways))} rose to {height:.1f} % of episodes in {named(steps[at : at + length])}"
                )
                found.append((height - after, f"{told} ({before:.1f} % before, {after:.1f} % after)"))
    return [told for _, told in sorted(found, reverse=True)]


def _is_above(own: Sequence[float], side: Sequence[float]) -> bool:
    change = change_of(side, own)
    return change.difference > STRICTER * (change.difference - change.low) and change.is_clear
