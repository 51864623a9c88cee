"""The page's first screen: success before and after."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trm_agent.evaluate.results import is_finite
from trm_agent.report.curves import number
from trm_agent.report.sources import Source
from trm_agent.report.validations import success_changes
from trm_agent.report.words import moved
from trm_agent.runs.rates import newcombe, wilson

_SUCCESS = re.compile(r"env/val_success/(?:greedy_)?h([0-9]{1,18})")
ACCEPTED = "sequences that the mask accepted"
ABOUT_SUCCESS = (
    "Success at the first and the last validation, in brackets 95 % intervals over tasks; "
    "accepted sequences in the first and the last step; changes in percentage points"
)
PAIRED = "paired: the same tasks were played both times"
UNPAIRED = "unpaired: which tasks were solved was not recorded both times"


def result_table(sources: Sequence[Source]) -> dict[str, Any] | None:
    """Return the success of the runs before and after, by horizon; None without a validation.

    Returns:
        JSON-clean: `title`, `columns`, `rows`, `about`.
    """
    rows: list[list[str]] = []
    hows: list[str] = []
    runs = [source for source in sources if source.kind == "run"]
    for source in runs:
        validations = [row for row in source.metrics if any(map(_SUCCESS.fullmatch, row))]
        if not validations:
            continue
        first, last = validations[0], validations[-1]
        label = [source.label] if len(runs) > 1 else []
        paired = success_changes(source, first.get("step"), last.get("step"))
        for name in sorted(filter(_SUCCESS.fullmatch, last), key=_order):
            before, after = _rate(source, first, name), _rate(source, last, name)
            change = paired.get(name.removeprefix("env/val_success/"))
            hows.append(PAIRED if change else UNPAIRED)
            changed = [_told(after), moved(change) if change else _change(before, after)]
            changed = ["-", "-"] if last is first else changed
            rows.append([*label, _measured(source, name), _told(before), *changed])
        if accepted := [row["trm/acceptance"] for row in source.metrics if is_finite(row.get("trm/acceptance"))]:
            shares = [f"{100 * share:.1f} %" for share in (accepted[0], accepted[-1])]
            rows.append([*label, ACCEPTED, *shares, f"{100 * (accepted[-1] - accepted[0]):+.1f}"])
    if not rows:
        return None
    about = f"{ABOUT_SUCCESS}, {'; or '.join(dict.fromkeys(hows))}."
    heads = [*(["run"] if len(runs) > 1 else []), "share", "before", "after", "change"]
    return {"title": "Results", "columns": heads, "rows": rows, "about": about}


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
    how = ", greedily" if "/greedy_" in name else ""
    return f"{source.success}{how}, horizon {horizon}{' (trained)' if is_trained else ''}"


def _order(name: str) -> tuple[bool, int]:
    return "/greedy_" in name, int(name.rsplit("h", 1)[1])
