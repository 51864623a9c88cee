"""The steps that a resumed run does again: what an earlier process left of them goes."""

import json
from pathlib import Path

from trm_agent.runs.endings.keeping import set_aside
from trm_agent.runs.folder import METRICS_FILE, STARTUP_FILE, TRACKER, read_metrics, write_atomically


def forget_after(path: Path, step: int) -> None:
    """Drop the metrics of the steps that a run resumed after `step` will repeat, and set their checkpoints aside.

    A checkpoint of theirs would stay beside rows of another process: where the run saves at other steps than before,
    nothing would be written over it, and once its step has a row anew it would count as whole.
    """
    # without a checkpoint the run begins anew, its first validation included
    rows = [row for row in read_metrics(path) if step > 0 and row["step"] <= step]
    write_atomically(path / METRICS_FILE, "".join(json.dumps(row) + "\n" for row in rows))
    (path / STARTUP_FILE).unlink(missing_ok=True)
    for later, folder in set_aside(path, after=step).items():
        print(f"the checkpoint of step {later}, which is done again, is {folder} until the next one is saved")
    tracker = path / TRACKER
    if step == 0:
        tracker.unlink(missing_ok=True)
    elif tracker.exists():
        write_atomically(tracker, str(step))
