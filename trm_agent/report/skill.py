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
    """Return what greedy play says of success's change, sentences of which the first is begun; "" without it."""
    if isinstance(plays, str) or direction == 0:
        return ""
    rose, rise, gains = ("rose", "rise", "surer") if direction > 0 else ("fell", "fall", "less sure")
    span = f" from step {plays.first} to step {plays.last}" if is_partial else ""
    play, sampled = f"Greedy validation{span}, which {gains} sampling does not touch,", f"the {rise} of sampled play"
    told = {each.horizon: f"by {moved(each.greedy)} at {_at(each)}" for each in plays.horizons}
    clear = [told[each.horizon] for each in plays.horizons if goes_with(each.greedy, direction) and not each.between]
    unsteady = [
        f"{told[each.horizon]}, where in between it had gone the other way ({moved(each.between[1])})"
        for each in plays.horizons
        if goes_with(each.greedy, direction) and each.between
    ]
    others = [
        f"{told[each.horizon]}{'' if each.greedy.is_clear else f', {UNCLEAR}'}"
        for each in plays.horizons
        if not goes_with(each.greedy, direction)
    ]
    more = any(is_more(each, direction) for each in plays.horizons)
    too = f"{rose} {' and '.join(unsteady)}, too unsteady to be called skill" if unsteady else ""
    if clear:
        other = f"; it {too}" if unsteady else ""
        other += f"; it changed {' and '.join(others)}" if others else ""
        rest = f". The rest of {sampled}, in training and validation, can be {gains} sampling" if more else ""
        return f". {play} {rose} {' and '.join(clear)}, which is skill{other}{rest}"
    if unsteady:
        other = f"; it changed {' and '.join(others)}" if others else ""
        return f". {play} {too}{other}"
    verdict = f"all of {sampled}, in training and validation, can be {gains} sampling"
    if not more:
        verdict = f"whether skill {rose} or sampling only became {gains} is not shown"
    return f". {play} changed {' and '.join(others)}: {verdict}"


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
    """Return how sure the policy became, and what surer sampling can have given; "" where nothing is known of it."""
    told = [_sureness(steps)]
    if isinstance(plays, str):
        return " ".join(filter(None, [*told, plays]))
    rose, gains = ("rose", "Surer") if direction > 0 else ("fell", "Less sure")
    given = []
    for each in plays.horizons if direction else ():
        if is_more(each, direction) and each.sampled and each.more:
            # where greedy play went the other way, no more than sampled play changed
            is_behind = direction * each.greedy.difference > -1e-9
            part = moved(each.more) if is_behind else f"all of {moved(each.sampled)}"
            given.append(f"{part} at {_at(each)}")
    if given:
        told.append(
            f"{gains} sampling can be why sampled validation {rose} by more than greedy validation: {'; '.join(given)}."
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
