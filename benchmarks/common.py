"""Runs the training command for a benchmark and reads what it wrote."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trm_agent.runs.folder import METRICS_FILE, STARTUP_FILE, read_metrics

TIMEOUT_SECONDS = 900


def train(*overrides: str, watch: Callable[[subprocess.Popen], None] | None = None) -> tuple[Path, float]:
    """Run `experiment=math_nano` to the end in a temporary folder.

    Args:
        overrides: Hydra overrides.
        watch: called again and again with the process while it runs.

    Returns:
        The run folder, and when the command was given (seconds since the epoch).
    """
    run_dir = Path(tempfile.mkdtemp(prefix="trm-benchmark-")) / "run"
    command = [sys.executable, "-m", "trm_agent.train", "experiment=math_nano", f"run.dir={run_dir}", *overrides]
    started = time.time()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        if time.time() - started > TIMEOUT_SECONDS:
            process.kill()
            raise TimeoutError(f"{' '.join(command)} took more than {TIMEOUT_SECONDS} s")
        if watch:
            watch(process)
        time.sleep(0.2)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed with {process.returncode}; see {run_dir}/log.txt")
    return run_dir, started


def training_rows(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl that are training steps."""
    if not (run_dir / METRICS_FILE).exists():
        raise FileNotFoundError(f"{run_dir / METRICS_FILE}: the run wrote no metrics")
    return [row for row in read_metrics(run_dir) if "timing_s/step" in row]


def phases(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of startup.jsonl."""
    return [json.loads(line) for line in (run_dir / STARTUP_FILE).read_text().splitlines()]
