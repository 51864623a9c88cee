"""The history of a run: where it began, and what was extended when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trm_agent.runs.data_text import json_lines, read_yaml
from trm_agent.runs.origin import step_of
from trm_agent.runs.stored_config import CONFIG_FILE

RESUMES_FILE = "resumes.jsonl"


def history(run_dir: Path) -> dict[str, Any]:
    """Return the history of a run as its summary holds it; empty for a run that began with its model, at step 0.

    Returns:
        `start`, the step after which it began; `resumed_from`, the checkpoint that it went on from; `init_from`, the
        checkpoint whose weights it began with; `extended`, a list of `after_step`, `time`, `fields` (field -> old and
        new value) and `schedule`. Those that do not apply are absent.
    """
    file = run_dir / CONFIG_FILE
    config = read_yaml(file.read_text(encoding="utf-8")) if file.exists() else {}
    trainer, run = config.get("trainer", {}), config.get("run", {})
    found: dict[str, Any] = {}
    start = step_of(trainer)
    if start:
        found |= {"start": start, "resumed_from": trainer["resume_from_path"]}
    if run.get("init_from"):
        found["init_from"] = run["init_from"]
    if extended := extensions(run_dir):
        found["extended"] = extended
    return found


def extensions(run_dir: Path) -> list[dict[str, Any]]:
    """Return the extensions of a run, in order."""
    file = run_dir / RESUMES_FILE
    rows = [row for _, row, reason in json_lines(file) if not reason] if file.exists() else []
    kept = ("after_step", "time", "fields", "schedule")
    return [{name: row[name] for name in kept if name in row} for row in rows if "fields" in row]
