"""Shares of a change with their intervals, the rest of it, and ways to fail that were frequent only in between."""

from collections.abc import Mapping, Sequence
from typing import Any

from trm_agent.report.account import Account, Change, Part, change_of, ending_percent, named, shares_of, sides
from trm_agent.report.changes import welch

WIDEST = 25
"""Points to either side that the interval of a share may have, for the share to be told."""
NUM_WINDOWS = 3
"""Windows between the first and the last steps, at most; none is shorter than these sides."""
STRICTER = 1.5
"""Factor of the intervals' widths, since the highest of several windows is looked at."""


def share_of(part: Part, account: Account) -> str:
    """Return a part's share of the change with its 95 % interval, in percent; "" where that is wide.

    The interval is Welch's over the steps' `part - share * failures`, whose change is 0 (the delta method).
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
    if not 0 < half <= WIDEST:
        return ""
    low, middle, above = (f"{round(100 * share + end) + 0:d}" for end in (-half, 0, half))
    return f"{middle} % [{low}, {above}]"


def rest_of(named_parts: Sequence[Part], account: Account) -> Change | None:
    """Return the change of all failures but those named; None where these are all."""
    if len(named_parts) == len(account.causes):
        return None
    old, new = (
        [max(0.0, round(100 - success - sum(own), 6)) for success, *own in zip(*each, strict=True)]
        for each in zip(account.steps, *(part.steps for part in named_parts), strict=True)
    )
    return change_of(old, new)


def risen_between(steps: Sequence[Mapping[str, Any]], account: Account) -> list[str]:
    """Return the ways to fail that were clearly more frequent in steps between the first and the last than in both."""
    size = len(sides(steps)[0])
    middle = steps[size : len(steps) - size]
    length = max(size, len(middle) // NUM_WINDOWS)
    windows = [middle[at : at + length] for at in range(0, len(middle) - length + 1, length)]
    found = []
    for part in account.causes:
        rates = [[ending_percent(shares_of(row), part.slugs) for row in window] for window in windows]
        for own, window in sorted(zip(rates, windows, strict=True), key=lambda each: -sum(each[0]))[:1]:
            if all(_is_above(own, side) for side in part.steps):
                name, height = part.ending.removeprefix("wrong answer: "), sum(own) / length
                ends = f"{part.whole.before:.1f} % before, {part.whole.after:.1f} % after"
                told = f"“{name}” rose to {height:.1f} % of episodes in {named(window)} ({ends})"
                found.append((height - part.whole.after, told))
    return [told for _, told in sorted(found, reverse=True)]


def _is_above(own: Sequence[float], side: Sequence[float]) -> bool:
    change = change_of(side, own)
    return change.difference > STRICTER * (change.difference - change.low) and change.is_clear
