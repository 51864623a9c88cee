"""How episodes were played in a run's first steps and its last; of older runs, also the ways to fail."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trm_agent.report.account import FEWEST, account_of, named, sides
from trm_agent.report.changes import welch
from trm_agent.report.curves import number
from trm_agent.report.sources import Source
from trm_agent.report.words import signed
from trm_agent.runs.failures import ENDED, MISTAKE, STOPS

FAILED = "failed: "
OLD = (
    "Successes and failures in % of all episodes, by the first mistake where the environment tells it; a right answer "
    "after a wrong call is in both, since the run's version did not count its endings. "
)
INTERVALS = (
    "In brackets the 95 % interval of the change over steps; one that holds 0 may be chance. Without brackets, the "
    "steps of a side are all alike and tell no interval."
)
Reading = Callable[[Mapping[str, Any]], float | None]
_MISTAKE, _STOP = re.compile(rf"env/task/{MISTAKE}(.+)"), re.compile(r"env/stop_reason/(.+)")
_MEANS = {
    "malformed turns, % of turns": ("env/malformed_turn_frac", 100.0),
    "turns": ("env/turns/mean", 1.0),
    "tool calls": ("env/tool_calls/mean", 1.0),
    "tokens of the response": ("env/response_tokens/mean", 1.0),
    "mean -log p of the sampled tokens, nats": ("env/token_nll", 1.0),
}


def trend_tables(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Return a table for each run with enough steps: how episodes were played.

    Of a run whose metrics have no account of its endings (`why`), also success and the ways to fail.

    Returns:
        JSON-clean: `kind`, `title`, `columns`, `rows`, `about`, as `endings.failure_tables`.
    """
    found = []
    for source in sources:
        rows = [row for row in source.metrics if number(row.get("env/success")) is not None]
        if source.kind == "run" and len(rows) >= FEWEST:
            has_account = account_of(rows) is not None
            title = "How episodes were played" if has_account else "What changed over training"
            name = f"{title}: {source.label}" if len(sources) > 1 else title
            found.append({"kind": "run", "title": name, **_table(rows, has_account)})
    return found


def _table(steps: Sequence[Mapping[str, Any]], has_account: bool) -> dict[str, Any]:
    first, last = sides(steps)
    side = len(first)
    rows: list[tuple[float, list[str]]] = []
    for name, (read, decimals) in _readings(steps, has_account).items():
        old, new = ([value for row in part if (value := read(row)) is not None] for part in (first, last))
        if len(old) == len(new) == side:
            difference, low, high = welch(old, new)
            means = [f"{sum(values) / side:.{decimals}f}" for values in (old, new)]
            change = signed(difference, decimals)
            if low < high:
                change = f"{change} [{signed(low, decimals)}, {signed(high, decimals)}]"
            # the failures by what they gave, the others as they come
            rows.append((difference if name.startswith(FAILED) else -math.inf, [name, *means, change]))
    about = "Means over the steps, of all their training episodes. " + ("" if has_account else OLD) + INTERVALS
    failures = [row for order, row in sorted(rows) if order > -math.inf]
    others = [row for order, row in rows if order == -math.inf]
    ordered = [*others[:1], *failures, *others[1:]]
    return {"columns": ["", named(first), named(last), "change"], "rows": ordered, "about": about}


def _readings(steps: Sequence[Mapping[str, Any]], has_account: bool) -> dict[str, tuple[Reading, int]]:
    """Return how each row's value is read from a step, with its decimals."""
    return _means() if has_account else _failures(steps) | _means()


def _means() -> dict[str, tuple[Reading, int]]:
    return {
        label: (_scaled(name, scale), 3 if name == "env/token_nll" else 1) for label, (name, scale) in _MEANS.items()
    }


def _failures(steps: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Reading, int]]:
    names = sorted({name for row in steps for name in row})
    found: dict[str, tuple[Reading, int]] = {"success, %": (_scaled("env/success", 100.0), 1)}
    for name in names:
        if match := _MISTAKE.fullmatch(name):
            found[f"{FAILED}{match[1].replace('_', ' ')[:60]}, %"] = (_of_all(name), 1)
    for name in names:
        if (match := _STOP.fullmatch(name)) and match[1] not in ENDED:
            found[f"{FAILED}{STOPS.get(match[1], match[1].replace('_', ' ')[:60])}, %"] = (_scaled(name, 100.0, 0.0), 1)
    return found


def _scaled(name: str, scale: float, absent: float | None = None) -> Reading:
    def read(row: Mapping[str, Any]) -> float | None:
        value = number(row.get(name, absent))
        return None if value is None else scale * value

    return read


def _of_all(name: str) -> Reading:
    """Read a share of the episodes that the environment ended, in % of all."""

    def read(row: Mapping[str, Any]) -> float | None:
        value = number(row.get(name))
        ended = sum(number(row.get(f"env/stop_reason/{stop}")) or 0.0 for stop in ENDED)
        return None if value is None else 100.0 * value * ended

    return read
