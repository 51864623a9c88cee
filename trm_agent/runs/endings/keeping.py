"""The checkpoints that a run keeps: the newest, the best by a metric of validation, and every so many steps."""

import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trm_agent.runs.folder import CHECKPOINTS, checkpoint_folder, last_saved, read_metrics, saved_steps

_REMOVED = "removed_step_"
_FOLDER = re.compile(r"global_step_([0-9]{1,15})")


@dataclass(frozen=True)
class Keeping:
    """The rule of what is kept."""

    newest: int | None
    """Number of newest checkpoints; None keeps all."""
    best: str | None = None
    """Metric of whose highest value the checkpoint is kept too."""
    every: int | None = None
    """Steps between checkpoints that are kept for good."""


def kept_steps(saved: Collection[int], rows: Sequence[Mapping[str, Any]], keeping: Keeping) -> set[int]:
    """Return the steps whose checkpoints are kept: by the rule, and the one that a killed run would go on from.

    That is the newest whose row is written. A checkpoint is written before its row, and validation may come in between.

    Args:
        saved: steps with a complete checkpoint.
        rows: rows of metrics.jsonl.
        keeping: the rule.
    """
    if keeping.newest is None:
        return set(saved)
    kept = set(sorted(saved)[-keeping.newest :])
    logged = {row["step"] for row in rows} & set(saved)
    kept |= {max(logged)} if logged else set()
    if keeping.every is not None:
        kept |= {step for step in saved if step % keeping.every == 0}
    if keeping.best is not None:
        # of equal ones the later
        judged = [(value, step) for step, value in _values(rows, keeping.best).items() if step in saved]
        kept |= {max(judged)[1]} if judged else set()
    return kept


def lacks_best(path: Path, best: str | None) -> list[str]:
    """Return a line where a run is over and no checkpoint was kept as its best.

    Args:
        path: the folder of the run.
        best: `run.keep_best`.
    """
    if best is None:
        return []
    values = _values(read_metrics(path), best)
    if not values:
        return [f"run.keep_best: no validation gave {best}, so no checkpoint was kept as the best"]
    if not values.keys() & set(saved_steps(path)):
        steps = ", ".join(map(str, sorted(values)[:5]))
        return [f"run.keep_best: {best} came after steps {steps}, of which none has a checkpoint"]
    return []


def _values(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[int, float]:
    return {row["step"]: row[metric] for row in rows if row.get(metric) is not None}


def tidy(path: Path, keeping: Keeping, *, before: int | None = None) -> list[int]:
    """Remove the checkpoints that are not kept, and what is left of half-written or removed ones.

    Args:
        path: the folder of the run.
        keeping: the rule.
        before: a step whose checkpoint is about to be written, over an older one of the same step if need be: one of
            the newest gives its place to it, but the last complete one stays.

    Returns:
        The steps whose checkpoints were removed, in order.
    """
    complete = [step for step in saved_steps(path) if step <= last_saved(path)]
    if before is not None:
        complete = [step for step in complete if step < before]
        if keeping.newest is not None:
            keeping = Keeping(max(1, keeping.newest - 1), keeping.best, keeping.every)
    kept = kept_steps(complete, read_metrics(path), keeping) if complete else set()
    for folder in (path / CHECKPOINTS).glob("*"):
        number = _FOLDER.fullmatch(folder.name)
        if folder.name.startswith(_REMOVED):
            shutil.rmtree(folder, ignore_errors=True)
        elif number and int(number[1]) not in kept:
            # renamed first: what a kill leaves of it is not taken for a checkpoint
            shutil.rmtree(folder.rename(folder.with_name(f"{_REMOVED}{number[1]}")), ignore_errors=True)
    return [step for step in complete if step not in kept]


def set_aside(path: Path, *, after: int) -> dict[int, Path]:
    """Take the checkpoints of later steps from among a run's, by names under which `tidy` removes them.

    Args:
        path: the folder of the run.
        after: the step after which the run goes on.

    Returns:
        Each step that had a checkpoint, complete or not -> the folder in which it is now.
    """
    found = {}
    for step in saved_steps(path):
        if step > after:
            aside = path / CHECKPOINTS / f"{_REMOVED}{step}"
            shutil.rmtree(aside, ignore_errors=True)
            found[step] = checkpoint_folder(path, step).rename(aside)
    return found


def most_at_once(keeping: Keeping, num_saves: int, num_steps: int) -> int:
    """Return the largest number of checkpoints on the disk at a time, the one that is being written included.

    Args:
        keeping: the rule.
        num_saves: checkpoints that the run will write in all.
        num_steps: steps of the run.
    """
    if keeping.newest is None:
        return num_saves
    # the last complete one stays until the next is written
    newest = max(2, keeping.newest)
    further = (keeping.best is not None) + (num_steps // keeping.every if keeping.every else 0)
    return min(num_saves, newest + further)


def folder_bytes(path: Path) -> int:
    """Return the bytes of a run's checkpoints."""
    return sum(file.stat().st_size for file in (path / CHECKPOINTS).rglob("*") if file.is_file())


def describe(keeping: Keeping) -> str:
    """Describe the rule with its fields."""
    if keeping.newest is None:
        return "all (trainer.max_actor_ckpt_to_keep=null)"
    parts = [f"the newest {keeping.newest} (trainer.max_actor_ckpt_to_keep)"]
    if keeping.best is not None:
        parts.append(f"the best by {keeping.best} (run.keep_best)")
    if keeping.every is not None:
        parts.append(f"every {keeping.every} steps (run.keep_every)")
    return ", ".join(parts)
