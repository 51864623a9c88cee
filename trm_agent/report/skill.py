"""Skill against sharper sampling, in words: greedy play at each horizon and how sure the policy is, early and late."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from trm_agent.report.account import Change, sides
from trm_agent.report.changes import welch
from trm_agent.report.curves import number
from trm_agent.report.plays import AtHorizon, Plays
from trm_agent.report.words import moved

UNCLEAR = "not distinguishable from 0"
CHECKPOINTS = "it varies from one checkpoint to the next, which intervals over tasks do not cover"


def goes_with(change: Change | None, direction: int) -> bool:
    """Return whether a change is clear and goes the way that success went."""
    return change is not None and change.is_clear and direction * change.difference > 0


def is_more(each: AtHorizon, direction: int) -> bool:
    """Return whether sampled success clearly went that way, and clearly more than greedy success."""
    return goes_with(each.sampled, direction) and goes_with(each.more, direction)


def skill_clause(plays: Plays | str, direction: int, *, is_partial: bool = False) -> str:
    """Return what greedy play says of success's change, as the end of a sentence; "" where it tells nothing."""
    if isinstance(plays, str) or direction == 0:
        return ""
    rose, gains = ("rose", "surer") if direction > 0 else ("fell", "less sure")
    play = "in validation greedy play" + (f" from step {plays.first} to step {plays.last}" if is_partial else "")
    clear = [each for each in plays.horizons if goes_with(each.greedy, direction)]
    against = [each for each in plays.horizons if goes_with(each.greedy, -direction)]
    unclear = [each for each in plays.horizons if not each.greedy.is_clear]
    more = any(is_more(each, direction) for each in plays.horizons)
    opposite = "fell" if direction > 0 else "rose"
    told = [f"{moved(each.greedy)} at {_at(each)}" for each in clear]
    told += [f"{opposite} at {_at(each)}, {moved(each.greedy)}" for each in against]
    told += [f"{UNCLEAR} at {_and(unclear)}"] if unclear else []
    if clear:
        other = f", and {gains} sampling can have given the rest" if more else ""
        return f"; {play} {rose} too ({', '.join(told)}), so skill is part of it{other}"
    verdict = f"so {gains} sampling can have given it, and that skill {rose} is not shown"
    if not more:
        verdict = f"so whether skill {rose} or sampling only became {gains} is not shown"
    return f"; {play} shows no such change ({', '.join(told)}), {verdict}"


def span_sentence(plays: Plays, first: Sequence[Mapping[str, Any]], last: Sequence[Mapping[str, Any]]) -> str:
    """Return that greedy validation covers less than the steps explained; "" where it covers them."""
    before, after = number(plays.first), number(plays.last)
    begins, ends = number(first[-1].get("step")), number(last[0].get("step"))
    if None in (before, after, begins, ends) or (before <= begins and after >= ends):  # type: ignore[operator]
        return ""
    return f"It covers steps {plays.first} to {plays.last} alone, less than what is explained above."


def between_sentence(plays: Plays) -> str:
    """Return at which horizons greedy success had clearly gone another way in between; "" without one."""
    told = [
        f"{'rose' if moved_by.difference > 0 else 'fell'} at {_at(each)} from step {plays.first} to step {step}, "
        f"{moved(moved_by)}"
        for each in plays.horizons
        for step, moved_by in ([each.between] if each.between else [])
    ]
    return f"In between it {'; it '.join(told)}: {CHECKPOINTS}." if told else ""


def sharpness_sentence(plays: Plays | str, steps: Sequence[Mapping[str, Any]], direction: int) -> str:
    """Return how sure the policy became, and what surer sampling gave; "" where nothing is known of it."""
    told = [_sureness(steps)]
    if isinstance(plays, str):
        return " ".join(filter(None, [*told, plays]))
    way, gains = ("rose", "surer") if direction > 0 else ("fell", "less sure")
    for each in plays.horizons if direction else ():
        assert each.sampled is None or each.more is not None
        if is_more(each, direction) and each.sampled and each.more:
            # where greedy play went the other way, no more than sampled play changed
            is_behind = direction * each.greedy.difference > -1e-9
            how = f"{moved(each.more)} more than greedy play" if is_behind else "and greedy play did not"
            told.append(f"At {_at(each)} sampled play {way} by {abs(each.sampled.difference):.1f} points, {how}.")
    ahead = [each for each in plays.horizons if each.ahead and each.ahead.high > 0 and direction > 0]
    if any(is_more(each, direction) for each in plays.horizons):
        told.append(f"{gains.capitalize()} sampling can give that much without skill, or more.")
    if ahead:
        rates = "; ".join(
            f"{_at(each)}, {each.ahead.after:.1f} % against {each.ahead.before:.1f} %" for each in ahead if each.ahead
        )
        is_above = all(each.ahead and each.ahead.low > 0 for each in ahead)
        told.append(
            f"Greedy success before training {'exceeds' if is_above else 'is not clearly below'} sampled success after "
            f"it ({rates}): there surer sampling of what the policy preferred from the start could give all of the "
            "rise of sampled play, so only greedy play can show skill."
        )
    return " ".join(filter(None, told))


def _sureness(steps: Sequence[Mapping[str, Any]]) -> str:
    first, last = sides(steps)
    old, new = (
        [value for row in side if (value := number(row.get("env/token_nll"))) is not None] for side in (first, last)
    )
    if min(len(old), len(new)) < 2:
        return ""
    difference, low, high = welch(old, new)
    if low <= 0 <= high or low == high:
        how = "The policy became neither surer nor less sure, as far as chance lets one see"
    else:
        how = f"The policy became {'surer' if difference < 0 else 'less sure'}"
    before, after = math.fsum(old) / len(old), math.fsum(new) / len(new)
    return (
        f"{how}: the mean -log p of its sampled tokens went from {before:.3f} to {after:.3f} nats "
        f"({difference:+.3f} [{low:+.3f}, {high:+.3f}])."
    )


def _at(each: AtHorizon) -> str:
    return f"horizon {each.horizon}"


def _and(found: Sequence[AtHorizon]) -> str:
    return f"horizon {' and '.join(each.horizon for each in found)}"
