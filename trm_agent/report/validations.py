"""A run's validations, task by task: changes between two of them are paired."""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from trm_agent.evaluate.results import is_finite
from trm_agent.evaluate.statistics.paired import compare
from trm_agent.report.account import NAME, SUCCESSES, Change
from trm_agent.report.sources import Source

GREEDY = "greedy_"
_SOURCE = re.compile(rf"({GREEDY})?h([0-9]{{1,18}})")
Task = tuple[str, str]
"""Its horizon and its name."""
Ending = tuple[str, bool]
"""Part of a metric's name, such as `ran_out_of_tokens`, and whether a call was malformed."""
Played = dict[Task, list[Ending]]
"""Task -> the endings of its episodes."""


@dataclass(frozen=True)
class Validation:
    """The episodes of one validation."""

    step: Any
    sampled: Played
    greedy: Played


def validations_of(source: Source) -> list[Validation]:
    """Return a run's validations in order; none where its version did not record them."""
    rows = {row["step"]: row for row in source.validations if is_finite(row.get("step"))}
    found = [Validation(step, *_played(rows[step].get("endings"))) for step in sorted(rows)]
    return [each for each in found if each.sampled or each.greedy]


def success_of(played: Played, tasks: Collection[Task]) -> float:
    """Return the mean success over tasks, in percent."""
    return 100 * sum(_rate(played[task], is_success) for task in tasks) / len(tasks)


def is_success(ending: Ending) -> bool:
    """Return whether an ending is a success."""
    return ending[0] in SUCCESSES


def paired(before: Played, after: Played, tasks: Collection[Task], counts: Callable[[Ending], bool]) -> Change:
    """Return the change of an ending's share on the same tasks, at least one, with its paired 95 % interval.

    Args:
        before, after: episodes of two validations.
        tasks: those in both.
        counts: whether an ending counts.
    """
    ordered = sorted(tasks)
    old, new = ([_rate(played[task], counts) for task in ordered] for played in (before, after))
    return Change(100 * sum(old) / len(old), 100 * sum(new) / len(new), *_compared(ordered, old, new, 100))


def success_changes(source: Source, first: object, last: object) -> dict[str, Change]:
    """Return the paired changes of success between two steps' validations: `h4`, greedily `greedy_h4` -> change.

    A horizon without common tasks is absent, as is all of a run whose version did not record its validations.
    """
    found = {each.step: each for each in validations_of(source)}
    changes: dict[str, Change] = {}
    if first in found and last in found:
        for prefix, before, after in (
            ("", found[first].sampled, found[last].sampled),
            (GREEDY, found[first].greedy, found[last].greedy),
        ):
            tasks = {*before} & {*after}
            for horizon in {horizon for horizon, _ in tasks}:
                own = {task for task in tasks if task[0] == horizon}
                changes[f"{prefix}h{horizon}"] = paired(before, after, own, is_success)
    return changes


def more(first: tuple[Played, Played], second: tuple[Played, Played], tasks: Collection[Task]) -> Change:
    """Return by how much more success changed between the second pair of validations than between the first.

    Args:
        first, second: episodes before and after.
        tasks: those in all of them.
    """
    ordered = sorted(tasks)
    old, new = (
        [_rate(after[task], is_success) - _rate(before[task], is_success) for task in ordered]
        for before, after in (first, second)
    )
    # from [-1, 1] to the rates that the comparison is for
    halves = ([(rise + 1) / 2 for rise in rises] for rises in (old, new))
    compared = _compared(ordered, next(halves), next(halves), 200)
    return Change(100 * sum(old) / len(old), 100 * sum(new) / len(new), *compared)


def _compared(tasks: list[Task], old: list[float], new: list[float], scale: float) -> tuple[float, float, float]:
    """Return the mean difference and its interval's ends, as `trm eval` has them between two checkpoints."""
    found = compare(old, new, strata=[horizon for horizon, _ in tasks], num_resamples=1)
    assert found.difference is not None
    assert found.low is not None
    assert found.high is not None
    return scale * found.difference, scale * found.low, scale * found.high


def _rate(endings: list[Ending], counts: Callable[[Ending], bool]) -> float:
    return sum(map(counts, endings)) / len(endings)


def _played(endings: Any) -> tuple[Played, Played]:
    found: dict[bool, Played] = {False: defaultdict(list), True: defaultdict(list)}
    for source, of in endings.items() if isinstance(endings, Mapping) else ():
        match = _SOURCE.fullmatch(source) if isinstance(source, str) else None
        for name, tasks in of.items() if match and isinstance(of, Mapping) else ():
            ending = NAME.fullmatch(name) if isinstance(name, str) else None
            for task in tasks if ending and isinstance(tasks, list) else ():
                found[bool(match and match[1])][match[2] if match else "", str(task)].append(_ending(ending))
    return dict(found[False]), dict(found[True])


def _ending(match: Any) -> Ending:
    return match[3], match[1].endswith("malformed")
