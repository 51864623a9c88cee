"""How episodes ended, over the steps and by horizon; of a run also how far its records stand for the whole steps."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trm_agent.evaluate.results import is_finite
from trm_agent.report.account import account_of
from trm_agent.report.changes import change
from trm_agent.report.curves import number
from trm_agent.report.rows import keeps_shortest
from trm_agent.report.sources import Source
from trm_agent.runs.failures import A_MALFORMED_CALL, EXPLAINED, ORDER, SOLVED, UNKNOWN, category
from trm_agent.runs.rates import wilson

WHOLE = "success in the whole step"
UNCLEAR = "too few tasks to tell"
# columns of the table over the steps
MOST_TIMES = 6
# below this number of episodes, a count says more than a share
FEW = 30
_STEP, _TRAINED = re.compile(r"step_(\d+)\."), re.compile(r"env/success/h([0-9]{1,18})")
_VALIDATED = re.compile(r"env/val_success/h([0-9]{1,18})")


@dataclass(frozen=True)
class Ending:
    """How one episode ended."""

    at: Any
    """The step, or the checkpoint's name."""
    horizon: Any
    category: str
    """Of a failure with a malformed call, that call, whatever ending followed."""
    task: Any = None
    """Name of the task; None counts as a task of its own."""


def failure_tables(index: Mapping[str, Sequence[Any]], sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Return two tables per folder with episodes: categories over the recorded steps, and by horizon at their ends.

    A run whose metrics have an account of its endings (`why`), by horizon too, has the first alone. Of an evaluation
    its checkpoints stand for the steps, with all their episodes.

    Args:
        index: columns of the list of episodes, with `run`, `step`, `horizon`, `category`, perhaps `group`, `malformed`.
        sources: the folders.

    Returns:
        JSON-clean: `kind` of the folder, `title`, `columns`, `rows`, `about`, as the tables of evaluations, and in the
        first table `explained`, the meaning of its rows.
    """
    groups = index.get("group") or [None] * len(index["run"])
    marks = [bool(number) for number in index.get("malformed") or [0] * len(index["run"])]
    causes = [_cause(*each) for each in zip(index["category"], marks, strict=True)]
    recorded = list(zip(index["run"], index["step"], index["horizon"], causes, groups, strict=True))
    found = []
    for run, source in enumerate(sources):
        if source.kind == "evaluation":
            played = [_played(row) for row in source.results]
            title, tables = "How episodes ended", _of_evaluation(played)
        else:
            seen = [Ending(*ending) for number, *ending in recorded if number == run]
            title, tables = "How training episodes ended", _of_run(source, seen)
        for table, part in zip(tables, ("", ", by horizon"), strict=False):
            name = f"{title}{part}: {source.label}" if len(sources) > 1 else f"{title}{part}"
            found.append({"kind": source.kind, "title": name, **table})
    return found


def _of_evaluation(endings: Sequence[Ending]) -> list[dict[str, Any]]:
    times = list(dict.fromkeys(each.at for each in endings))
    return _tables(endings, times, "", {}, True, ["All episodes played."]) if times else []


def _of_run(source: Source, endings: Sequence[Ending]) -> list[dict[str, Any]]:
    """Return the tables of a run's recorded steps; none without records."""
    times = sorted({each.at for each in endings})
    if not times:
        return []
    steps = {row.get("step"): row for row in source.metrics if row.get("step") in times}
    whole = {
        (at, int(match[1])): value
        for at, row in steps.items()
        for name, value in row.items()
        if (match := _TRAINED.fullmatch(name)) and is_finite(value) and 0 <= value <= 1
    }
    ends = _ends(times)
    parts = [_part(at, steps.get(at, {}), endings, whole) for at in ends]
    is_whole = all(part.startswith("all ") for part in parts)
    is_shortest = not is_whole and any(
        keeps_shortest(file) for file in source.episode_files if (of := _STEP.match(file.name)) and int(of[1]) in ends
    )
    is_like = not is_shortest and all(_agrees(endings, key, value) for key, value in whole.items() if key[0] in ends)
    about = [f"Episodes on training tasks, others at each step: {'; '.join(parts)}."]
    if is_shortest:
        about.append("This run recorded its shortest episodes; these shares are not the step's and are left out.")
    elif not is_like:
        about.append("The recorded success differs from the whole step's by more than chance; shares are left out.")
    if is_finite(times[0]) and times[0] > 1:
        about.append(f"The first recorded step is {times[0]}: what changed before it is not here.")
    failures: list[Any] = [row.get("env/infrastructure_failures") for row in source.metrics]
    failed = sum(value for value in failures if is_finite(value))
    about.append(f"Failures of the infrastructure, which are not trained on: {failed:.0f} in all steps.")
    tables = _tables(endings, times, "step ", {} if is_whole else whole, is_like, [*about, *_elsewhere(source)])
    # the account by horizon has all episodes
    scored = [row for row in source.metrics if number(row.get("env/success")) is not None]
    return tables if account_of(scored) is None else tables[:1]


def _ends(times: Sequence[Any]) -> list[Any]:
    return list(dict.fromkeys((times[0], times[-1]))) if times else []


def _part(at: Any, metrics: Mapping[str, Any], endings: Sequence[Ending], whole: Collection[tuple[Any, int]]) -> str:
    """Say which part of a step is recorded."""
    seen = [each for each in endings if each.at == at]
    total: Any = metrics.get("env/num_episodes")
    missing = {horizon for step, horizon in whole if step == at} - {each.horizon for each in seen}
    if not is_finite(total) or total < len(seen):
        return f"{len(seen)} of step {at}"
    none = f", none of horizon {' or '.join(map(str, sorted(missing)))}" if missing else ""
    if total == len(seen):
        return f"all {len(seen)} of step {at}"
    return f"{len(seen)} of {total:.0f} episodes of step {at}{none}"


def _agrees(endings: Sequence[Ending], key: tuple[Any, int], rate: float) -> bool:
    """Return whether the recorded success of a step's horizon has the whole step's rate in its 95 % interval."""
    seen = [each for each in endings if (each.at, each.horizon) == key]
    if not seen:
        return True
    low, high = wilson(sum(each.category == SOLVED for each in seen) / len(seen), _num_tasks(seen))
    return low <= rate <= high


def _elsewhere(source: Source) -> list[str]:
    """Point to an evaluation for the horizons that only validation has."""
    names = {name for row in source.metrics for name in row}
    trained, validated = (
        {int(match[1]) for name in names if (match := form.fullmatch(name))} for form in (_TRAINED, _VALIDATED)
    )
    only = " and ".join(map(str, sorted(validated - trained))) if trained else ""
    told = f"Horizon {only} is in validation alone: for how its episodes end, trm eval RUN and trm report RUN EVAL."
    return [told] if only else []


def _tables(
    endings: Sequence[Ending],
    times: Sequence[Any],
    prefix: str,
    whole: Mapping[tuple[Any, int], float],
    has_shares: bool,
    about: Sequence[str],
) -> list[dict[str, Any]]:
    """Return the table over `times` and, where there are several horizons, the one by horizon at their ends."""
    shown = [times[round(place * (len(times) - 1) / (MOST_TIMES - 1))] for place in range(MOST_TIMES)]
    over = _over_times(endings, list(dict.fromkeys(shown)), prefix, has_shares)
    told = " ".join([*about, *filter(None, [over.pop("about")])])
    explained = {name: EXPLAINED[name] for name, *_ in over["rows"] if name in EXPLAINED}
    tables = [{**over, "about": told, "explained": explained}]
    if len({each.horizon for each in endings} | {horizon for _, horizon in whole}) > 1:
        tables.append(_by_horizon(endings, _ends(times), prefix, whole, has_shares))
    return tables


def _over_times(endings: Sequence[Ending], times: Sequence[Any], prefix: str, has_shares: bool) -> dict[str, Any]:
    """Count the categories at each of `times`, all horizons together; of an evaluation with the change.

    That of a run is in `trend`, over all of its steps.
    """
    cells = {at: [each for each in endings if each.at == at] for at in times}
    has_change = not prefix and has_shares and len(times) > 1
    before, after = cells[times[0]], cells[times[-1]]
    shown = [each for each in endings if each.at in times]
    rows = []
    for name in _names(shown):
        row = [name, *(_count(name, seen, has_shares) for seen in cells.values())]
        rows.append(row + [_change(name, before, after)] * has_change)
    heads = [f"{prefix}{at}" if len(times) > 1 else "all" for at in times]
    told = "" if not has_change else (
        f"Change: from {times[0]} to {times[-1]}, in percentage points, mean over tasks "
        f"({_num_tasks(before)} and {_num_tasks(after)}) with its 95 % interval; one that holds 0 may be chance."
    )  # fmt: skip
    return {"columns": ["ending", *heads, *["change"] * has_change], "rows": rows, "about": told}


def _by_horizon(
    endings: Sequence[Ending],
    times: Sequence[Any],
    prefix: str,
    whole: Mapping[tuple[Any, int], float],
    has_shares: bool,
) -> dict[str, Any]:
    """Count the categories by horizon at `times`, one or two."""
    shown = [each for each in endings if each.at in times]
    horizons = {each.horizon for each in shown} | {horizon for _, horizon in whole}
    ordered = sorted(horizons, key=lambda each: (0, each, "") if isinstance(each, int | float) else (1, 0, str(each)))
    names = _names(shown)
    columns = [(at, horizon) for horizon in ordered for at in times]
    cells = {key: [each for each in shown if (each.at, each.horizon) == key] for key in columns}
    rows = [[name, *(_count(name, cells[key], has_shares) for key in columns)] for name in names]
    if whole:
        rows.insert(1 if names[:1] == [SOLVED] else 0, [WHOLE, *(_rate(whole.get(key)) for key in columns)])
    heads = [f"{_named(horizon)}{f', {prefix}{at}' if len(times) > 1 else ''}" for at, horizon in columns]
    numbers = ", ".join(str(_num_tasks(cells[key])) for key in columns)
    return {"columns": ["ending", *heads], "rows": rows, "about": f"Tasks of the columns: {numbers}."}


def _names(endings: Sequence[Ending]) -> list[str]:
    """Return the categories that occur, in the order of `ORDER`, details after what they belong to."""
    place = {name: number for number, name in enumerate(ORDER)}
    return sorted(
        {each.category for each in endings}, key=lambda name: (place.get(name.split(":")[0], len(ORDER)), name)
    )


def _change(name: str, before: Sequence[Ending], after: Sequence[Ending]) -> str:
    """Say by how much a category's share changed, and how sure that is."""
    found = change(*([(each.task, each.category == name) for each in seen] for seen in (before, after)))
    if found is None:
        return UNCLEAR
    middle, low, high = (100 * value for value in found)
    return f"{middle:+.1f} [{low:+.1f}, {high:+.1f}]"


def _num_tasks(endings: Sequence[Ending]) -> int:
    """Count tasks, since episodes of one task share its difficulty."""
    tasks = {each.task for each in endings if each.task is not None}
    return len(tasks) + sum(each.task is None for each in endings)


def _count(name: str, seen: Sequence[Ending], has_shares: bool) -> str:
    count = sum(each.category == name for each in seen)
    if not seen or not has_shares:
        return str(count) if seen else "-"
    counted = f"{count} of {len(seen)}"
    return counted if len(seen) < FEW else f"{100 * count / len(seen):.0f} % ({counted})"


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.0f} %"


def _played(row: Mapping[str, Any]) -> Ending:
    """Return how an evaluation's episode ended."""
    horizon, malformed, task = row.get("horizon"), row.get("malformed_turns"), row.get("task")
    num_malformed = malformed if isinstance(malformed, int) else 0
    ending = _cause(category(row, num_malformed), num_malformed > 0 and row.get("success") is False)
    named = None if task is None else f"{row.get('env')} {task}"
    place = horizon if is_finite(horizon) else None
    return Ending(str(row.get("checkpoint"))[:60], place, ending, named)


def _cause(ending: str, has_malformed: bool) -> str:
    """Return the way to end under which an episode is counted, as in the account of a run."""
    return A_MALFORMED_CALL if has_malformed and ending not in (SOLVED, UNKNOWN) else ending


def _named(horizon: Any) -> str:
    return "all" if horizon is None else f"horizon {horizon}"
