"""`results.jsonl`: one line per episode, only ever appended; reading, and the repair of an end that a kill left."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trm_agent.episode import Episode, StopReason
from trm_agent.runs.data_text import read_json
from trm_envs.scoring import SCORER_VERSION

RESULTS_FILE = "results.jsonl"
TRUNCATED_FILE = "results.jsonl.truncated"
_TYPES: dict[str, type | tuple[type, ...]] = {
    "checkpoint": str,
    "env": str,
    "task": int,
    "sample": int,
    "seed": int,
    "success": bool,
    "stop_reason": str,
}


_NUMBERS = (
    "horizon", "reward", "turns", "tool_calls", "malformed_turns", "model_tokens", "response_tokens", "generate_s",
    "env_s", "total_s",
)  # fmt: skip
_LARGEST = 2**63


def result_row(label: str, env: str, horizon: int | None, task: int, sample: int, episode: Episode) -> dict[str, Any]:
    """Return the result of an episode, JSON-clean; a number that is not finite is left out."""
    assert episode.seed is not None, "an evaluation's tasks have seeds"
    return {
        "checkpoint": label,
        "env": env,
        "env_id": episode.env_id,
        "horizon": horizon,
        "task": task,
        "seed": episode.seed,
        "sample": sample,
        "success": bool(episode.success),
        "reward": episode.reward,
        "stop_reason": str(episode.stop_reason),
        "error": episode.error,
        "scorer_error": episode.scorer_error,
        "scorer_version": SCORER_VERSION,
        "turns": episode.num_turns,
        "tool_calls": episode.num_tool_calls,
        "malformed_turns": episode.num_malformed,
        "model_tokens": episode.num_model_tokens,
        "response_tokens": len(episode.response_ids),
        "generate_s": round(episode.timings["generate"], 4),
        "env_s": round(episode.timings["env"], 4),
        "total_s": round(episode.timings["total"], 4),
        "numbers": {name: value for name, value in episode.numbers.items() if math.isfinite(value)},
    }


def is_failure(row: Mapping[str, Any]) -> bool:
    """Return True for a failure of the infrastructure, which says nothing about the model."""
    return StopReason(row["stop_reason"]).is_infrastructure_failure


def read_results(file: Path) -> tuple[list[dict[str, Any]], bytes]:
    """Read a `results.jsonl`.

    Returns:
        The rows in the order of the file, and the bytes after its last complete line.

    Raises:
        ValueError: a complete line is not a result; the message names it.
    """
    data = file.read_bytes() if file.exists() else b""
    *lines, rest = data.split(b"\n")
    return [_parsed(file, number, line) for number, line in enumerate(lines, 1)], rest


def set_aside(file: Path, rest: bytes) -> None:
    """Move the unfinished line at the end of the results to the file for cut lines."""
    with file.with_name(TRUNCATED_FILE).open("ab") as backup:
        backup.write(rest + b"\n")
        backup.flush()
        os.fsync(backup.fileno())
    os.truncate(file, file.stat().st_size - len(rest))


def bad_line(file: Path, number: int, what: str) -> ValueError:
    """Return the error for a faulty line, counted from 1."""
    return ValueError(
        f"{file}, line {number}: {what}: no result of this evaluation; nothing was written: look at the line and take "
        "it out (its episode is then played again), or give another --out"
    )


def _parsed(file: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = read_json(line, finite=True)
    except ValueError as error:
        raise bad_line(file, number, f"is not JSON ({error})") from error
    if not isinstance(row, dict):
        raise bad_line(file, number, f"is a {type(row).__name__}, not an object")
    for name, kind in _TYPES.items():
        value = row.get(name)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise bad_line(file, number, f"has {name}={repr(value)[:80]}")
        if isinstance(value, int) and abs(value) >= _LARGEST:
            raise bad_line(file, number, f"has {name}={repr(value)[:80]}")
    for name, value in (*((name, row.get(name)) for name in _NUMBERS), *_counted(row)):
        if value is not None and not is_finite(value):
            raise bad_line(file, number, f"has {name}={repr(value)[:80]}")
    if row["stop_reason"] not in [str(reason) for reason in StopReason]:
        raise bad_line(file, number, f"has stop_reason={row['stop_reason']!r}")
    return row


def is_finite(value: Any) -> bool:
    """Return True if a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _counted(row: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the environment's counts, one entry per name; a single faulty entry if they are not a mapping."""
    numbers = row.get("numbers") or {}
    return list(numbers.items()) if isinstance(numbers, Mapping) else [("numbers", numbers)]
