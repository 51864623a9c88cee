"""The tasks that were in play at a checkpoint of an asynchronous run: a file of their numbers, beside the shards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trm_agent.runs.data_text import read_json, read_yaml
from trm_agent.runs.preflight_async import SYNC, THRESHOLD
from trm_agent.runs.rollout_pool import MODE
from trm_agent.runs.stored_config import CONFIG_FILE, flatten
from trm_fields import refuse

IN_PLAY = "tasks_in_play.json"
"""File of a checkpoint with the tasks that had been drawn and not trained on."""
_WITHOUT = 'write {"tasks": []} into it to go on without these tasks'


@dataclass(frozen=True)
class TaskInPlay:
    """A task that has been drawn, and that no update has taken."""

    number: int
    """Its number."""
    horizon: int | None = None
    """The horizon that a curriculum drew for it; None without one."""


def read_tasks_in_play(checkpoint: Path) -> list[TaskInPlay]:
    """Return the tasks that were in play at a checkpoint; none without the file, as of a synchronous run.

    Raises:
        ValueError: the file holds something else.
    """
    file = checkpoint / IN_PLAY
    if not file.exists():
        return []
    found = read_json(file.read_bytes())
    if not isinstance(found, dict) or not _are_numbers(found.get("tasks"), 0):
        raise ValueError(f"{file}: not the numbers of tasks; {_WITHOUT}")
    horizons = found.get("horizons", [None] * len(found["tasks"]))
    if "horizons" in found and not (_are_numbers(horizons, 1) and len(horizons) == len(found["tasks"])):
        raise ValueError(f"{file}: not one horizon for each task; {_WITHOUT}")
    return [TaskInPlay(number, horizon) for number, horizon in zip(found["tasks"], horizons, strict=True)]


def check_in_play(field: str, checkpoint: Path, *, plays_them: bool = True, room: int | None = None) -> None:
    """Refuse a checkpoint whose tasks in play would be lost, as its place in the data is past them.

    Args:
        field: the field that names the checkpoint, or its run.
        checkpoint: `global_step_N`.
        plays_them: whether the run that goes on from it plays them anew, as an asynchronous one does.
        room: how many it can train on within its limit of age; None for any number, or its own checkpoint.

    Raises:
        ValueError: its run was asynchronous and the file is missing, the file holds something else, or there are such
            tasks and the run would not play them, or has no room for all.
    """
    tasks, mode = read_tasks_in_play(checkpoint), settings_of_run(checkpoint).get(MODE)
    if mode not in (None, SYNC) and not (checkpoint / IN_PLAY).exists():
        because = f"which lacks {IN_PLAY}, while its run has {MODE}={mode}: the tasks in play would be lost"
        refuse(field, str(checkpoint), "a whole checkpoint", f"put the file back, or {_WITHOUT}", because=because)
    if tasks and not plays_them:
        because = f"which has {len(tasks)} tasks in play ({IN_PLAY}), while a run with {MODE}={SYNC} would play none"
        remedy = f"set {MODE} to that of its run, give its weights alone as run.init_from=RUN@STEP, or {_WITHOUT}"
        refuse(field, str(checkpoint), "a checkpoint without tasks in play", remedy, because=because)
    if plays_them and room is not None and len(tasks) > room:
        because = f"which has {len(tasks)} tasks in play ({IN_PLAY}), while the run trains on {room} within {THRESHOLD}"
        remedy = f"raise that or data.train_batch_size, give its weights alone as run.init_from=RUN@STEP, or {_WITHOUT}"
        refuse(field, str(checkpoint), f"a checkpoint with at most {room}", remedy, because=because)


def settings_of_run(checkpoint: Path) -> dict[str, Any]:
    """Return the settings of the run that wrote a checkpoint: dotted name -> value; empty if nothing tells."""
    file = checkpoint.resolve().parent.parent / CONFIG_FILE
    try:
        return flatten(read_yaml(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        # of another program, or moved: a checkpoint is whole without it
        return {}


def _are_numbers(found: Any, least: int) -> bool:
    return isinstance(found, list) and all(isinstance(each, int) and each >= least for each in found)
