"""Skill against sharper sampling: greedy validation and how sure the policy is, early and late."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from trm_agent.report.account import Change, sides
from trm_agent.report.changes import welch
from trm_agent.report.curves import number
from trm_agent.report.sources import Source
from trm_agent.report.validations import Played, Task, Validation, is_success, more, paired, success_of, validations_of
from trm_agent.runs.rates import newcombe

GREEDY = re.compile(r"env/val_success/greedy_h[0-9]{1,18}")
_SAMPLED = re.compile(r"env/val_success/h[0-9]{1,18}")
SHARPER = (
    "Sharper sampling alone (the same preferences, held more firmly) would make the policy surer and leave its "
    "likeliest answers, which greedy play takes, as they are."
)
_LIKELIEST = "Greedy validation, in which the policy always takes its likeliest token"


def skill_sentences(source: Source, steps: Sequence[Mapping[str, Any]], direction: int) -> list[str]:
    """Return what the run tells of skill and of sharper sampling.

    Args:
        source: a run.
        steps: the rows of its metrics that tell a success.
        direction: 1 where success rose, -1 where it fell, 0 where neither is distinguishable from chance.
    """
    both = [each for each in validations_of(source) if each.greedy]
    told = _by_task(source, both, direction) if len(both) > 1 else []
    return [*filter(None, (_sureness(steps), *(told or _by_rates(source, direction))))]


def _sureness(steps: Sequence[Mapping[str, Any]]) -> str:
    first, last = sides(steps)
    old, new = (
        [value for row in side if (value := number(row.get("env/token_nll"))) is not None] for side in (first, last)
    )
    if min(len(old), len(new)) < 2:
        return ""
    difference, low, high = welch(old, new)
    if low <= 0 <= high:
        how = "The policy became neither surer nor less sure, as far as chance lets one see"
    else:
        how = f"The policy became {'surer' if difference < 0 else 'less sure'}"
    before, after = math.fsum(old) / len(old), math.fsum(new) / len(new)
    return (
        f"{how}: the mean -log p of its sampled tokens went from {before:.3f} to {after:.3f} nats "
        f"({difference:+.3f} [{low:+.3f}, {high:+.3f}])."
    )


def _by_task(source: Source, found: Sequence[Validation], direction: int) -> list[str]:
    """Compare greedy and sampled play on the tasks that every validation played both ways; [] without any."""
    tasks = set.intersection(*({*each.greedy} & {*each.sampled} for each in found))
    if not tasks:
        return []
    first, last = found[0], found[-1]
    greedy = paired(first.greedy, last.greedy, tasks, is_success)
    sampled = paired(first.sampled, last.sampled, tasks, is_success)

    def told(played: Sequence[Played], moved: Change) -> str:
        rates = zip(found, played, strict=True)
        listed = ", ".join(f"{success_of(own, tasks):.1f} % (step {each.step})" for each, own in rates)
        return f"{listed}, {_points(moved)}"

    temperature = _temperature(source)
    at = "" if temperature is None else f" at temperature {temperature}"
    # both plays of one step, from greedy to sampled
    gap = more((first.greedy, last.greedy), (first.sampled, last.sampled), tasks)
    old, new = greedy.before - sampled.before, greedy.after - sampled.after
    return [
        f"{_LIKELIEST}: {told([each.greedy for each in found], greedy)}. Sampled{at} on the same {len(tasks)} tasks: "
        f"{told([each.sampled for each in found], sampled)}. Intervals pair the tasks of the first and the last "
        f"validation. Greedy play was ahead by {old:.1f} points before and {new:.1f} after, {_change(_negative(gap))}.",
        _suffices(paired(last.sampled, first.greedy, tasks, is_success), direction),
        _verdict(greedy, gap, direction),
        _turned(found, tasks, greedy),
    ]


def _turned(found: Sequence[Validation], tasks: Collection[Task], greedy: Change) -> str:
    """Return the validation between the ends at which greedy success had clearly gone the other way; "" without one."""
    for each in found[1:-1]:
        own = paired(found[0].greedy, each.greedy, tasks, is_success)
        if own.is_clear and own.difference * greedy.difference < 0:
            return (
                f"But from step {found[0].step} to step {each.step} greedy success went the other way, {_change(own)}: "
                "it varies from one checkpoint to the next, which intervals over tasks do not cover, so how much of "
                "its change will last is not shown."
            )
    return ""


def _suffices(ahead: Change, direction: int) -> str:
    """Return the fact that greedy play before beat sampled play after, where it is clear; `ahead`: by how much."""
    if direction <= 0 or ahead.low <= 0:
        return ""
    return (
        f"Greedy success before training ({ahead.after:.1f} %) exceeds sampled success after it ({ahead.before:.1f} %)"
        f", {_change(ahead)}: surer sampling of what the policy preferred from the start could alone "
        "give a rise as large as that of sampled success, which therefore shows no skill; only greedy play can."
    )


def _by_rates(source: Source, direction: int) -> list[str]:
    """Compare the rates of a run that did not record its validations task by task."""
    form = _SAMPLED if _temperature(source) == 0 else GREEDY
    rows = [row for row in source.metrics if _pooled(source, row, form) is not None]
    if not rows:
        if not any(name.startswith("env/val_success/") for row in source.metrics for name in row):
            return [
                "This run was not validated, so better skill and sharper sampling cannot be told apart here; "
                "env.val.greedy_tasks=256 with validation (trainer.test_freq) has the next run play greedily as well."
            ]
        return [
            "This run validated by sampling alone, so better skill and sharper sampling cannot be told apart here; "
            "env.val.greedy_tasks=256 has the next run validate greedily as well."
        ]
    if len(rows) < 2:
        return ["Greedy validation was measured once, so skill and sharper sampling cannot be told apart yet."]
    ends = rows[0], rows[-1]
    greedy, sampled = _moved(source, ends, form), _moved(source, ends, _SAMPLED)
    told = f"{_LIKELIEST}, went {_told(source, greedy, rows, form)}"
    if form is _SAMPLED or sampled is None:
        return [f"{told}.", _verdict(greedy, None, direction)]
    gap = _excess(greedy, sampled)
    old, new = greedy.before - sampled.before, greedy.after - sampled.after
    return [
        f"{told}; sampled validation, of other tasks too, {_told(source, sampled, rows, _SAMPLED)}. "
        f"Greedy play was ahead by {old:.1f} points before and {new:.1f} after, {_change(_negative(gap))}.",
        _suffices(_between(_pooled(source, rows[-1], _SAMPLED), _pooled(source, rows[0], form)), direction),
        _verdict(greedy, gap, direction),
    ]


def _verdict(greedy: Change, gap: Change | None, direction: int) -> str:
    """Return what greedy validation says of a change of the sampled episodes' success.

    Args:
        greedy: the change of greedy success.
        gap: by how much more sampled success changed; None without it.
        direction: of the sampled episodes' change.
    """
    if direction == 0:
        return ""
    way, gains = ("rose", "sharper") if direction > 0 else ("fell", "less sharp")
    is_more = gap is not None and gap.is_clear and direction * gap.difference > 0
    if greedy.is_clear and direction * greedy.difference > 0:
        told = f"{SHARPER} Greedy success {way} by {abs(greedy.difference):.1f} points. So skill {way}"
        if is_more and gap is not None:
            return f"{told}. Sampled success {way} {abs(gap.difference):.1f} points more: sampling became {gains} too."
        return f"{told}, and not the sharpness of sampling alone."
    if is_more and gap is not None:
        low, high = sorted((abs(gap.low), abs(gap.high)))
        return (
            f"{SHARPER} Sampled play {way} {abs(gap.difference):.1f} points [{low:.1f}, {high:.1f}] more than greedy "
            f"play: that much is {gains} sampling. That skill {way} is not shown."
        )
    return (
        f"Chance may explain the change of greedy play, so this run does not show whether skill {way} or sampling only "
        f"became {gains}."
    )


def _excess(greedy: Change, sampled: Change) -> Change:
    """Return by how much more sampled play changed, with its 95 % interval from those of both changes."""
    middle = sampled.difference - greedy.difference
    low = math.hypot(sampled.difference - sampled.low, greedy.high - greedy.difference)
    high = math.hypot(sampled.high - sampled.difference, greedy.difference - greedy.low)
    return Change(greedy.difference, sampled.difference, middle, middle - low, middle + high)


def _negative(change: Change) -> Change:
    return Change(change.after, change.before, -change.difference, -change.high, -change.low)


def _moved(source: Source, ends: Sequence[Mapping[str, Any]], form: re.Pattern[str]) -> Any:
    return _between(*(_pooled(source, row, form) for row in ends))


def _between(before: tuple[float, float] | None, after: tuple[float, float] | None) -> Any:
    """Return the change between two rates with their numbers of tasks; None without one of them."""
    if before is None or after is None:
        return None
    (old, num_old), (new, num_new) = before, after
    low, high = newcombe(old, num_old, new, num_new)
    return Change(100 * old, 100 * new, 100 * (new - old), 100 * low, 100 * high)


def _told(source: Source, moved: Change, rows: Sequence[Mapping[str, Any]], form: re.Pattern[str]) -> str:
    found = [(row.get("step"), pooled) for row in rows if (pooled := _pooled(source, row, form)) is not None]
    listed = " to ".join(f"{100 * rate:.1f} % (step {step})" for step, (rate, _) in found)
    return f"from {listed}, {_points(moved)} over {found[-1][1][1]:.0f} tasks"


def _points(change: Change) -> str:
    return f"{change.difference:+.1f} points [{change.low:+.1f}, {change.high:+.1f}]"


def _change(change: Change) -> str:
    return f"{change.difference:+.1f} [{change.low:+.1f}, {change.high:+.1f}]"


def _pooled(source: Source, row: Mapping[str, Any], form: re.Pattern[str]) -> tuple[float, float] | None:
    """Return the success of all horizons together, and the number of tasks."""
    successes = tasks = 0.0
    for name in filter(form.fullmatch, row):
        rate, num = number(row[name]), source.num_tasks(row.get(name.replace("val_success", "val_num_episodes")))
        if rate is None or num is None or not 0 <= rate <= 1:
            return None
        successes, tasks = successes + rate * num, tasks + num
    return (successes / tasks, tasks) if tasks else None


def _temperature(source: Source) -> float | None:
    found: Any = source.config
    for name in ("actor_rollout_ref", "rollout", "val_kwargs", "temperature"):
        found = found.get(name) if isinstance(found, dict) else None
    return number(found)
