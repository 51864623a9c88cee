"""Why success on validation's tasks changed, sampled and greedily, in short: each task paired, by horizon."""

from collections.abc import Callable, Sequence

from trm_agent.report.account import Change, way_to_end
from trm_agent.report.plays import Plays, greedy_validations, validates_greedily
from trm_agent.report.skill import UNCLEAR
from trm_agent.report.sources import Source
from trm_agent.report.validations import Ending, Played, is_success, paired, validations_of
from trm_agent.report.words import moved, quoted

MOST_NAMED = 2
"""Ways to fail that the text names at each horizon."""
NO_ENDINGS = "All this is about training episodes: how those of validation ended was not recorded before and after."


FEWEST_SOLVED = 20
"""Number of tasks, all solved, from which on nothing was left to learn."""


def held_out_sentence(source: Source) -> str:
    """Return how sampled validation changed at each horizon, with the failures that chance does not explain.

    "" of a run whose validation is greedy itself.
    """
    if validates_greedily(source):
        return ""
    found = [(each.step, each.sampled) for each in validations_of(source) if each.sampled]
    return _told("Validation, sampled", found) or NO_ENDINGS


def greedy_sentence(source: Source, plays: Plays) -> str:
    """Return the same of greedy play, from its rates where its endings were not recorded."""
    title = "Validation, greedy (always the likeliest token)"
    told = _told(title, [(each.step, each.greedy) for each in greedy_validations(source)]) if plays.is_paired else ""
    parts = [f"horizon {each.horizon} {_rates(each.greedy)}" for each in plays.horizons]
    solved = [each for each in plays.horizons if each.greedy.before == 100 and plays.num_tasks >= FEWEST_SOLVED]
    where = " and ".join(f"horizon {each.horizon}" for each in solved)
    full = (
        f" It solved all tasks of {where} from the start: there, only surer sampling was left to gain." if where else ""
    )
    told = told or (
        f"{title}, {plays.num_tasks} tasks, step {plays.first} to step {plays.last}: {'; '.join(parts)}. Intervals "
        "of two samples: which tasks were solved was not recorded."
    )
    return f"{told}{full}"


def _told(title: str, found: Sequence[tuple[object, Played]]) -> str:
    """Return the sentence; "" without two validations on common tasks."""
    tasks = {*found[0][1]} & {*found[-1][1]} if len(found) > 1 else set()
    if not tasks:
        return ""
    (first, before), (last, after) = found[0], found[-1]
    parts = []
    for horizon in sorted({horizon for horizon, _ in tasks}, key=int):
        own = {task for task in tasks if task[0] == horizon}
        success = paired(before, after, own, is_success)
        clear = {name: each for name, each in _changes(before, after, own).items() if each.is_clear}
        named = sorted(clear, key=lambda name: (-abs(clear[name].difference), name))[:MOST_NAMED]
        against = [name for name in named if clear[name].difference * success.difference > 0]
        told = (f"{quoted(name)} {moved(clear[name])}" for name in named if name not in against)
        failures = ", ".join([*told, *(f"against it {quoted(name)} {moved(clear[name])}" for name in against)])
        parts.append(f"horizon {horizon} {_rates(success)}{f' ({failures})' if failures else ''}")
    return f"{title}, {len(tasks)} tasks paired, step {first} to step {last}: {'; '.join(parts)}."


def _rates(success: Change) -> str:
    told = f"{success.before:.1f} to {success.after:.1f} %, {moved(success)}"
    return told if success.is_clear else f"{told}, {UNCLEAR}"


def _changes(before: Played, after: Played, tasks: set[tuple[str, str]]) -> dict[str, Change]:
    """Return the change of each cause of failures, as the account has them."""
    names = {way_to_end(*ending)[0] for side in (before, after) for task in tasks for ending in side[task]} - {""}

    def has(name: str) -> Callable[[Ending], bool]:
        return lambda ending: way_to_end(*ending)[0] == name

    return {name: paired(before, after, tasks, has(name)) for name in names}
