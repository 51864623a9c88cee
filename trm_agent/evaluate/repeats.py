"""Find the problems of old evaluations, which counted rows that repeat a problem as tasks of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trm_agent.runs.row_files import HASH, ROWS, problems_of
from trm_agent.runs.scorer_version import FIELD
from trm_envs.rows.files import hash_of_file
from trm_envs.rows.problems import same_text

Row = Mapping[str, Any]
MANY_SAMPLES = 1_000_000
OURS = "trm/"


def with_problems(results: Sequence[Row], config: Mapping[str, Any]) -> tuple[list[Row], list[str]]:
    """Add its problem to each result of an old evaluation that asked every row of a file.

    Args:
        results: rows of results.jsonl.
        config: the evaluation's config.yaml.

    Returns:
        The results, as one task where rows are one problem, with its samples numbered through; and notes on files that
        no longer exist.
    """
    rows: list[Row] = list(results)
    notes: list[str] = []
    if FIELD in config:
        return rows, notes
    for entry in config.get("environments") or []:
        if not isinstance(entry, Mapping) or not entry.get("rows_hash"):
            continue
        if entry.get("module") is not None or not str(entry.get("id")).startswith(OURS):
            notes.append(
                f"{entry.get('name')}: whoever wrote the folder chose the module of this environment, so it is not "
                "imported here: rows that repeat a problem, if there are any, count as tasks of their own"
            )
            continue
        places = _places(entry)
        if places is None:
            notes.append(
                f"{entry.get('name')}: the file of its rows is not there any more ({entry['kwargs'].get(ROWS)}), so "
                "rows that repeat a problem, if there are any, count as tasks of their own"
            )
        else:
            ours = entry.get("name")
            rows = [_moved(row, *places[row["task"]]) if _is_of(row, ours, places) else row for row in rows]
    return rows, notes


def _is_of(row: Row, name: Any, places: Mapping[int, tuple[int, int]]) -> bool:
    return row.get("env") == name and row.get("task") in places


def _moved(row: Row, first: int, copy: int) -> Row:
    # far apart, so that two copies have no sample in common
    return {**row, "task": first, "sample": row["sample"] + copy * MANY_SAMPLES}


def _places(entry: Mapping[str, Any]) -> dict[int, tuple[int, int]] | None:
    """Return, for each row of a repeated problem, the problem's first row and its own place; None without the file."""
    kwargs = {name: value for name, value in entry["kwargs"].items() if name != HASH}
    path = Path(str(kwargs.get(ROWS))).expanduser()
    if not path.is_file() or not hash_of_file(str(path)).startswith(entry["rows_hash"]):
        return None
    try:
        problems, _ = problems_of(entry["id"], entry.get("module"), {**kwargs, "unscorable": "drop"})
    except (ValueError, TypeError, ImportError):
        return None
    if problems is None:
        return None
    members: dict[tuple[str, str], list[int]] = {}
    for number, row in enumerate(problems.rows):
        if row is not None:
            members.setdefault((same_text(row.question), same_text(row.truth)), []).append(number)
    repeated = [numbers for numbers in members.values() if len(numbers) > 1]
    return {number: (numbers[0], copy) for numbers in repeated for copy, number in enumerate(numbers)}
