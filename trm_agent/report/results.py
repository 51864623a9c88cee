"""The page's first screen: held-out success before and after, and where the time went."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from trm_agent.evaluate.results import is_finite
from trm_agent.evaluate.statistics.intervals import wilson
from trm_agent.report.curves import number
from trm_agent.report.sources import Source

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
# of start-up, with which each session of a run begins
FIRST_PHASE = "driver"
ACCEPTED = "sequences that the mask accepted"
ABOUT_SUCCESS = (
    "Held-out success at the first and the last validation, in brackets the 95 % Wilson interval of the share; "
    "accepted sequences in the first and the last step."
)


def result_table(sources: Sequence[Source]) -> dict[str, Any] | None:
    """Return held-out success of the runs before and after, by horizon; None without a validation.

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
            before, after = first.get(name), last[name]
            change = "-"
            if is_finite(before) and is_finite(after) and last is not first:
                change = f"{100 * (after - before):+.1f}"
            cells = [_share(first, name), _share(last, name)] if last is not first else [_share(first, name), "-"]
            rows.append([*label, f"horizon {name.rsplit('h', 1)[1]}", *cells, change])
        if accepted := [row["trm/acceptance"] for row in source.metrics if is_finite(row.get("trm/acceptance"))]:
            shares = [f"{100 * share:.1f} %" for share in (accepted[0], accepted[-1])]
            rows.append([*label, ACCEPTED, *shares, f"{100 * (accepted[-1] - accepted[0]):+.1f}"])
    if not rows:
        return None
    heads = [*(["run"] if len(runs) > 1 else []), "held-out success", "before", "after", "change"]
    return {"title": "Results", "columns": heads, "rows": rows, "about": ABOUT_SUCCESS}


def time_shares(source: Source) -> list[tuple[str, float]]:
    """Return the seconds of a run's phases, start-up first and the rest last; empty without a timed step."""
    if not any(is_finite(row.get("timing_s/step")) for row in source.metrics):
        return []
    sessions = _sessions(source.startup)
    spent = {START: sum(times[-1] - times[0] for times in sessions)}
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


def _seconds(row: Mapping[str, Any], name: str) -> float:
    return max(0.0, number(row.get(f"timing_s/{name}")) or 0.0)


def _share(row: Mapping[str, Any], name: str) -> str:
    share, trials = number(row.get(name)), number(row.get(name.replace("val_success", "val_num_episodes")))
    if share is None:
        return "-"
    if trials is None or not (0 <= share <= 1 and trials >= 1):
        return f"{100 * share:.1f} %"
    low, high = wilson(share, trials)
    return f"{100 * share:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
