"""The page's first screen: success before and after, and where the time went."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trm_agent.evaluate.results import is_finite
from trm_agent.report.curves import number
from trm_agent.report.sources import Source
from trm_agent.runs.rates import newcombe, wilson

_SUCCESS = re.compile(r"env/val_success/h([0-9]{1,18})")
# phase -> verl's timings that it adds up
PHASES = {
    "generation": ("gen",),
    "update": ("old_log_prob", "ref", "values", "adv", "update_actor", "update_critic", "reward"),
    "weights": ("update_weights",),
    "validation": ("testing",),
    "checkpoints": ("save_checkpoint",),
}
START, REST = "start-up", "rest"
PREPARATION = "preparation (checks, warm start)"
# of start-up, with which each session of a run begins
FIRST_PHASE = "driver"
ACCEPTED = "sequences that the mask accepted"
ABOUT_SUCCESS = (
    "Success at the first and the last validation, in brackets 95 % intervals over tasks; "
    "accepted sequences in the first and the last step; changes in percentage points."
)


def result_table(sources: Sequence[Source]) -> dict[str, Any] | None:
    """Return the success of the runs before and after, by horizon; None without a validation.

    Returns:
        JSON-clean: `title`, `columns`, `rows`, `about`.
    """
    rows = []
    runs = [source for source in sources if source.kind == "run"]
    for source in runs:
        validations = [row for row in source.metrics if any(map(_SUCCESS.fullmatch, row))]
        if not validations:
            continue
        first, last = validations[0], validations[-1]
        label = [source.label] if len(runs) > 1 else []
        for name in sorted(filter(_SUCCESS.fullmatch, last), key=lambda name: int(name.rsplit("h", 1)[1])):
            before, after = _rate(source, first, name), _rate(source, last, name)
            changed = ["-", "-"] if last is first else [_told(after), _change(before, after)]
            rows.append([*label, _measured(source, name), _told(before), *changed])
        if accepted := [row["trm/acceptance"] for row in source.metrics if is_finite(row.get("trm/acceptance"))]:
            shares = [f"{100 * share:.1f} %" for share in (accepted[0], accepted[-1])]
            rows.append([*label, ACCEPTED, *shares, f"{100 * (accepted[-1] - accepted[0]):+.1f}"])
    if not rows:
        return None
    heads = [*(["run"] if len(runs) > 1 else []), "share", "before", "after", "change"]
    return {"title": "Results", "columns": heads, "rows": rows, "about": ABOUT_SUCCESS}


def time_shares(source: Source) -> list[tuple[str, float]]:
    """Return the seconds of a run's phases, what precedes training first, the rest last; empty without a timed step."""
    if not any(is_finite(row.get("timing_s/step")) for row in source.metrics):
        return []
    sessions = _sessions(source.startup)
    spent = {START: sum(times[-1] - times[0] for times in sessions)}
    if (prepared := _prepared(source.sessions, sessions)) is not None:
        spent = {PREPARATION: prepared, **spent}
    for phase, names in PHASES.items():
        spent[phase] = sum(_seconds(row, name) for row in source.metrics for name in names)
    first = source.metrics[0]
    if sessions and not _seconds(first, "step") and is_finite(first.get("time")):
        # the validation before the first step, which verl does not time
        spent["validation"] += max(0.0, first["time"] - sessions[0][-1])
    total = number((source.summary or {}).get("wall_s"))
    if total is None:
        total = sum(_seconds(row, "step") for row in source.metrics)
    return [*spent.items(), (REST, max(0.0, total - sum(spent.values())))]


def _sessions(startup: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Return the times of each session's phases of start-up, in order."""
    sessions: list[list[float]] = []
    for row in startup:
        if is_finite(row.get("time")):
            if row.get("phase") == FIRST_PHASE or not sessions:
                sessions.append([])
            sessions[-1].append(row["time"])
    return sessions


def _prepared(begun: Sequence[Mapping[str, Any]], sessions: Sequence[Sequence[float]]) -> float | None:
    """Return the seconds from each command to its driver; None where no record tells when a command began."""
    starts = [row["started"] for row in begun if is_finite(row.get("started"))]
    before = [(times[0], [start for start in starts if start <= times[0]]) for times in sessions]
    spans = [first - max(earlier) for first, earlier in before if earlier]
    return sum(spans) if spans else None


def _seconds(row: Mapping[str, Any], name: str) -> float:
    return max(0.0, number(row.get(f"timing_s/{name}")) or 0.0)


@dataclass(frozen=True)
class _Rate:
    share: float | None
    num_tasks: float | None
    """None where no interval can be made."""


def _rate(source: Source, row: Mapping[str, Any], name: str) -> _Rate:
    share = number(row.get(name))
    num_tasks = source.num_tasks(row.get(name.replace("val_success", "val_num_episodes")))
    return _Rate(share, num_tasks if share is not None and 0 <= share <= 1 else None)


def _told(rate: _Rate) -> str:
    if rate.share is None:
        return "-"
    interval = "" if rate.num_tasks is None else f" {_interval(wilson(rate.share, rate.num_tasks), '.1f')}"
    return f"{100 * rate.share:.1f} %{interval}"


def _change(before: _Rate, after: _Rate) -> str:
    if before.share is None or after.share is None:
        return "-"
    told = f"{100 * (after.share - before.share):+.1f}"
    if before.num_tasks is None or after.num_tasks is None:
        return told
    return f"{told} {_interval(newcombe(before.share, before.num_tasks, after.share, after.num_tasks), '+.1f')}"


def _interval(ends: tuple[float, float], form: str) -> str:
    return f"[{', '.join(format(100 * end, form) for end in ends)}]"


def _measured(source: Source, name: str) -> str:
    horizon = name.rsplit("h", 1)[1]
    trained = source.trained_horizons
    is_trained = isinstance(trained, list) and any(str(each) == horizon for each in trained)
    return f"{source.success}, horizon {horizon}{' (trained)' if is_trained else ''}"
