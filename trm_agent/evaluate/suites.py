"""Suites of held-out tasks: presets in conf/suite, versioned by a hash of everything that decides their tasks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml

from trm_agent.evaluate.environments import named
from trm_agent.evaluate.plan import Environment
from trm_agent.evaluate.rows import tasks_hash
from trm_agent.runs.compose import CONF, choices
from trm_agent.runs.row_files import ROWS
from trm_fields import OneOf

GROUP = "suite"
FIELDS = ("version", "description", "environments", "rows")
ENVIRONMENT_FIELDS = ("env", "horizons", "num_tasks", "seed", "kwargs", "limits", "limits_horizon")


@dataclass(frozen=True)
class Suite:
    """A named set of tasks."""

    name: str
    version: int
    description: str
    environments: tuple[Environment, ...]
    rows: bool
    """True if the tasks are the rows of a user's file."""

    def config(self) -> dict[str, Any]:
        """Return the fields that an evaluation stores; the hash, which needs drawn tasks, comes from `suite_hash`."""
        return {"name": self.name, "version": self.version}


def suite_names() -> list[str]:
    """List the presets."""
    return choices(GROUP)


def read_suite(name: str) -> dict[str, Any]:
    """Return the fields of a preset as they stand in its file.

    Raises:
        ValueError: there is no such suite, or it has an unknown field.
    """
    OneOf(suite_names()).check("--suite", name)
    content: dict[str, Any] = yaml.safe_load((CONF / GROUP / f"{name}.yaml").read_text(encoding="utf-8"))
    _check_fields(f"conf/suite/{name}.yaml", content, FIELDS)
    for entry in content["environments"]:
        _check_fields(f"conf/suite/{name}.yaml, environments", entry, ENVIRONMENT_FIELDS)
    return content


def load_suite(name: str, rows_file: str | None = None) -> Suite:
    """Read a suite without drawing a task or reading a file of rows.

    Args:
        name: of a preset.
        rows_file: the user's file, for a suite of published problems.

    Raises:
        ValueError: no such suite, or a file missing or given where none is needed.
    """
    content = read_suite(name)
    needs_rows = bool(content.get("rows"))
    if needs_rows and rows_file is None:
        raise ValueError(
            f"--suite {name}: asks the problems of a file that you have; give it with --rows FILE (.jsonl, .json or "
            ".parquet; see docs/evaluate.md)"
        )
    if rows_file is not None and not needs_rows:
        raise ValueError(
            f"--rows {rows_file}: the suite {name} is generated; leave --rows out, or choose one of "
            f"{', '.join(each for each in suite_names() if read_suite(each).get('rows'))}"
        )
    environments = [_environment(entry) for entry in content["environments"]]
    if rows_file is not None:
        environments = [replace(each, kwargs={**each.kwargs, ROWS: rows_file}, split="all") for each in environments]
    return Suite(name, content["version"], content["description"], tuple(environments), needs_rows)


def suite_hash(name: str) -> str:
    """Draw the first tasks of a suite, and hash them with its settings to 16 hexadecimal digits.

    Rows of a file are not in it: they have a hash of their own.
    """
    content = read_suite(name)
    environments = [] if content.get("rows") else [_environment(entry) for entry in content["environments"]]
    first_tasks = [[each.id, tasks_hash(each)] for each in environments]
    text = json.dumps([content["version"], content["environments"], first_tasks])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def list_suites() -> str:
    """Return all suites as text, one paragraph each."""
    shown = []
    for name in suite_names():
        content = read_suite(name)
        lines = [f"{name} (version {content['version']}): {' '.join(content['description'].split())}"]
        for entry in content["environments"]:
            what = "--rows FILE" if content.get("rows") else f"{entry['num_tasks']} tasks"
            lines.append(f"  {entry['env']:<16} {what}, horizons {' '.join(map(str, entry['horizons']))}")
        shown.append("\n".join(lines))
    return "\n\n".join(shown)


def _environment(entry: Mapping[str, Any]) -> Environment:
    base = named(entry["env"])
    return replace(
        base,
        horizons=tuple(entry["horizons"]),
        num_tasks=entry.get("num_tasks", 1),
        seed=entry["seed"],
        kwargs={**base.kwargs, **entry.get("kwargs", {})},
        limits={**base.limits, **entry.get("limits", {})},
        limits_horizon=entry.get("limits_horizon", base.limits_horizon),
    )


def _check_fields(where: str, content: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in content:
        OneOf(known).check(f"{where}: field", str(name))
