"""The sessions of a run: each command that worked on it, from its start to its last sign of life."""

import json
from pathlib import Path
from typing import Any

from trm_agent.runs.data_text import json_lines
from trm_agent.runs.folder import GIT_FILE, LOG_FILE, write_atomically

SESSIONS_FILE = "sessions.jsonl"


def begin_session(path: Path, started: float) -> None:
    """Record that a session began; one before it that was killed ends with its last line in the log.

    Args:
        path: the folder of the run, before anything of this session is written into its log.
        started: seconds since the epoch.
    """
    sessions = _read(path)
    log = path / LOG_FILE
    if log.exists():
        if not sessions and (path / GIT_FILE).exists():
            # a run of a version that kept no record: its folder was made as it began
            sessions = [{"started": (path / GIT_FILE).stat().st_mtime, "ended": None}]
        if sessions and sessions[-1]["ended"] is None:
            sessions[-1]["ended"] = max(sessions[-1]["started"], log.stat().st_mtime)
    _write(path, [*sessions, {"started": started, "ended": None}])


def end_session(path: Path, ended: float) -> None:
    """Record that the last session ended, at a time in seconds since the epoch."""
    sessions = _read(path)
    if sessions:
        sessions[-1]["ended"] = ended
        _write(path, sessions)


def session_seconds(path: Path) -> list[float]:
    """Return the seconds of each session that ended, in order."""
    return [row["ended"] - row["started"] for row in _read(path) if row["ended"] is not None]


def _read(path: Path) -> list[dict[str, Any]]:
    file = path / SESSIONS_FILE
    if not file.exists():
        return []
    rows = [row for _, row, reason in json_lines(file) if not reason]
    return [{"started": float(row["started"]), "ended": row.get("ended")} for row in rows if "started" in row]


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    write_atomically(path / SESSIONS_FILE, "".join(json.dumps(row) + "\n" for row in rows))
