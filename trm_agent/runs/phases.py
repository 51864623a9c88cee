"""The record of a run's start-up."""

import json
import time
from pathlib import Path

from trm_agent.runs.folder import STARTUP_FILE


def mark(run_dir: str | Path, phase: str) -> None:
    """Append a phase of the start-up and its time (seconds since the epoch) to the run folder."""
    with (Path(run_dir) / STARTUP_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"phase": phase, "time": time.time()}) + "\n")
