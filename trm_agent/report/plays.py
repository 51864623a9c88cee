"""Greedy and sampled play of a run's validation at each horizon, early and late."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trm_agent.report.account import Change
from trm_agent.report.curves import number
from trm_agent.report.sources import Source
from trm_agent.report.validations import Task, Validation, is_success, more, paired, validations_of
from trm_agent.runs.rates import newcombe

_RATE = re.compile(r"env/val_success/(greedy_)?h([0-9]{1,18})")


@dataclass(frozen=True)
class AtHorizon:
    """The changes of both ways of play at one horizon."""

    horizon: str
    greedy: Change
    sampled: Change | None
    """None where validation was greedy alone."""
    more: Change | None
    """By how much more sampled success changed than greedy success."""
    between: tuple[Any, Change] | None = None
    """Step of a validation between at which greedy success had clearly gone another way than at the end, and how."""


@dataclass(frozen=True)
class Plays:
    """Greedy validations of a run, the first against the last."""

    first: Any
    """Step."""
    last: Any
    num_tasks: int
    is_paired: bool
    """Whether the same tasks are compared."""
    horizons: tuple[AtHorizon, ...]


def plays_of(source: Source) -> Plays | str:
    """Return what greedy validation measured, or the reason why it tells nothing of skill."""
    found = greedy_validations(source)
    return (_by_task(found) if len(found) > 1 else None) or _by_rates(source)


def greedy_validations(source: Source) -> list[Validation]:
    """Return the recorded validations with greedy play; at temperature 0, validation itself is greedy."""
    found = validations_of(source)
    if validates_greedily(source):
        found = [Validation(each.step, {}, each.greedy or each.sampled) for each in found]
    return [each for each in found if each.greedy]


def _by_task(found: Sequence[Validation]) -> Plays | None:
    first, last = found[0], found[-1]
    tasks = {*first.greedy} & {*last.greedy}
    if not tasks:
        return None
    horizons = []
    for horizon in sorted({horizon for horizon, _ in tasks}, key=int):
        own = {task for task in tasks if task[0] == horizon}
        greedy = paired(first.greedy, last.greedy, own, is_success)
        both = own & {*first.sampled} & {*last.sampled}
        sampled = paired(first.sampled, last.sampled, both, is_success) if both else None
        gap = more((first.greedy, last.greedy), (first.sampled, last.sampled), both) if both else None
        horizons.append(AtHorizon(horizon, greedy, sampled, gap, _turned(found, own, greedy)))
    return Plays(first.step, last.step, len(tasks), True, tuple(horizons))


def _turned(found: Sequence[Validation], tasks: set[Task], greedy: Change) -> tuple[Any, Change] | None:
    for each in found[1:-1]:
        own = tasks & {*each.greedy}
        if own:
            moved = paired(found[0].greedy, each.greedy, own, is_success)
            if moved.is_clear and (not greedy.is_clear or moved.difference * greedy.difference < 0):
                return each.step, moved
    return None


def _by_rates(source: Source) -> Plays | str:
    """Compare the rates of a run that did not record its validations task by task."""
    rates = [(row, _rates(source, row)) for row in source.metrics]
    rows = [(row.get("step"), found) for row, found in rates if found[True]]
    if not rows:
        return (
            "This run validated by sampling alone, so better skill and sharper sampling cannot be told apart here; "
            "env.val.greedy_tasks=256 has the next run validate greedily as well."
            if any(name.startswith("env/val_success/") for row in source.metrics for name in row)
            else "This run was not validated, so better skill and sharper sampling cannot be told apart here; "
            "env.val.greedy_tasks=256 with trainer.test_freq has the next run validate greedily as well."
        )
    if len(rows) < 2:
        return "Greedy validation was measured once, so skill and sharper sampling cannot be told apart yet."
    (first, old), (last, new) = rows[0], rows[-1]
    common = sorted(old[True].keys() & new[True].keys(), key=int)
    same = [each for each in common if old[True][each][1] == new[True][each][1]]
    if not same:
        return (
            f"The greedy tasks of step {last} are others than those of step {first}, so skill and sharper sampling "
            "cannot be told apart here."
        )
    horizons = []
    for horizon in same:
        greedy = _between(old[True][horizon], new[True][horizon])
        before, after = old[False].get(horizon), new[False].get(horizon)
        if before is None or after is None or before[1] != after[1]:
            horizons.append(AtHorizon(horizon, greedy, None, None))
        else:
            sampled = _between(before, after)
            horizons.append(AtHorizon(horizon, greedy, sampled, _excess(greedy, sampled)))
    num = sum(round(old[True][each][1]) for each in same)
    return Plays(first, last, num, False, tuple(horizons))


def _rates(source: Source, row: Mapping[str, Any]) -> dict[bool, dict[str, tuple[float, float]]]:
    """Return of greedy play (True) and of sampled play the success and the number of tasks at each horizon."""
    found: dict[bool, dict[str, tuple[float, float]]] = {False: {}, True: {}}
    for name in row:
        rate, match = number(row[name]), _RATE.fullmatch(name)
        num = source.num_tasks(row.get(name.replace("val_success", "val_num_episodes"))) if match else None
        if match and rate is not None and num is not None and 0 <= rate <= 1:
            found[bool(match[1])][match[2]] = rate, num
    return {False: {}, True: found[True] or found[False]} if validates_greedily(source) else found


def _between(before: tuple[float, float], after: tuple[float, float]) -> Change:
    (old, num_old), (new, num_new) = before, after
    low, high = newcombe(old, num_old, new, num_new)
    return Change(100 * old, 100 * new, 100 * (new - old), 100 * low, 100 * high)


def _excess(greedy: Change, sampled: Change) -> Change:
    """Return by how much more sampled play changed, with its 95 % interval from those of both changes."""
    middle = sampled.difference - greedy.difference
    low = math.hypot(sampled.difference - sampled.low, greedy.high - greedy.difference)
    high = math.hypot(sampled.high - sampled.difference, greedy.difference - greedy.low)
    return Change(greedy.difference, sampled.difference, middle, middle - low, middle + high)


def validates_greedily(source: Source) -> bool:
    """Return whether all of validation is greedy, at temperature 0."""
    found: Any = source.config
    for name in ("actor_rollout_ref", "rollout", "val_kwargs", "temperature"):
        found = found.get(name) if isinstance(found, dict) else None
    return number(found) == 0
