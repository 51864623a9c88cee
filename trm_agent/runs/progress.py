"""Progress of a generation or a validation: each process that plays counts, and the command's screen adds up.

The counts are files of the run's folder, one a process. Who plays writes its own at the end of every episode and once
a second besides, over the bytes of the last time: a file replaced costs the event loop milliseconds. The trainer says
which episodes are wanted, and when they are there; where others are in play too, it counts the tasks that it waits for.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from trm_agent.runs.data_text import read_json
from trm_agent.runs.folder import write_atomically

FOLDER = ".progress"
_PHASE = "phase"
_LEAST_S = 1.0
# of a count in its file, filled up with blanks
_BYTES = 100


class Counter:
    """The counts of one process, in the folder of a run.

    Args:
        run_dir: the folder of the run.
        now: seconds of a clock that only goes forward.
    """

    def __init__(self, run_dir: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._file = run_dir / FOLDER / f"{socket.gethostname()}-{os.getpid()}"
        self._now, self._written = now, float("-inf")
        self._open: int | None = None
        self.episodes = self.validation = self.tokens = 0

    def add_turn(self, tokens: int) -> None:
        """Count the sampled tokens of a turn."""
        self.tokens += tokens
        if self._now() - self._written >= _LEAST_S:
            self._write()

    def add_episode(self, of_validation: bool = False) -> None:
        """Count an episode that is over, whatever its end."""
        if of_validation:
            self.validation += 1
        else:
            self.episodes += 1
        self._write()

    def _write(self) -> None:
        self._written = self._now()
        # a screen's numbers are worth no run
        with contextlib.suppress(OSError):
            if self._open is None:
                self._file.parent.mkdir(exist_ok=True)
                self._open = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            text = json.dumps({"episodes": self.episodes, "validation": self.validation, "tokens": self.tokens})
            os.pwrite(self._open, text.ljust(_BYTES).encode(), 0)


@dataclass(frozen=True)
class Phase:
    """Episodes that the trainer waits for."""

    name: str
    """What they are for, such as `step 3: generation`."""
    total: int
    """Their number, or that of their tasks."""
    began: float
    """Time at which they were asked for, seconds since the epoch."""
    episodes: int
    """Episodes of their kind that had been played before."""
    tokens: int
    """Tokens that had been sampled before."""
    of_validation: bool = False
    """Whether they are a validation's."""
    left: int | None = None
    """Tasks that the trainer still waits for; None where it counts no tasks."""
    had: int | None = None
    """Tasks for which it did not wait any more when it counted first."""


def begin_phase(
    run_dir: Path, name: str, total: int, now: float, *, of_validation: bool = False, in_tasks: bool = False
) -> None:
    """Say which episodes the trainer waits for from now on.

    Args:
        run_dir: the folder of the run.
        name: what they are for.
        total: their number.
        now: seconds since the epoch.
        of_validation: whether they are a validation's.
        in_tasks: whether `total` counts tasks, of which `tell_left` is going to tell.
    """
    training, validation, tokens = _counts(run_dir)
    episodes = validation if of_validation else training
    left = total if in_tasks else None
    _write_phase(run_dir, Phase(name, total, now, episodes, tokens, of_validation, left))


def tell_left(run_dir: Path, left: int) -> None:
    """Say for how many tasks the trainer still waits; nothing where it waits for none."""
    phase = read_phase(run_dir)
    if phase is not None:
        left = min(left, phase.total)
        _write_phase(run_dir, replace(phase, left=left, had=phase.total - left if phase.had is None else phase.had))


def extend_phase(run_dir: Path, more: int) -> None:
    """Say that the trainer waits for so many more episodes; nothing where it waits for none, or counts tasks."""
    phase = read_phase(run_dir)
    if phase is not None and phase.left is None:
        _write_phase(run_dir, replace(phase, total=phase.total + more))


def end_phase(run_dir: Path) -> None:
    """Say that the trainer waits for no episodes any more."""
    with contextlib.suppress(OSError):
        (run_dir / FOLDER / _PHASE).unlink(missing_ok=True)


def forget_progress(run_dir: Path) -> None:
    """Remove the counts of an earlier session."""
    for file in (run_dir / FOLDER).glob("*"):
        file.unlink(missing_ok=True)


def read_phase(run_dir: Path) -> Phase | None:
    """Return the episodes that the trainer waits for; None where it waits for none."""
    row = _read(run_dir / FOLDER / _PHASE)
    try:
        return Phase(**row) if row else None
    except TypeError:
        return None


def progress_line(run_dir: Path, phase: Phase, now: float) -> str:
    """Return a phase's progress: episodes or tasks of how many, tokens per second, time passed and left."""
    training, validation, tokens = _counts(run_dir)
    passed = max(now - phase.began, 1e-9)
    rate = (tokens - phase.tokens) / passed
    if phase.left is None:
        # a batch that failed as a whole is drawn anew
        done = since = max(0, min((validation if phase.of_validation else training) - phase.episodes, phase.total))
    else:
        done = phase.total - phase.left
        since = done - (phase.had or 0)
    left = f"{_clock(passed / since * (phase.total - done))} left" if since > 0 else "time left unknown"
    unit = "episodes" if phase.left is None else "tasks"
    return f"  {phase.name}: {done}/{phase.total} {unit}  {rate:.0f} tok/s  {_clock(passed)}, {left}"


def _write_phase(run_dir: Path, phase: Phase) -> None:
    with contextlib.suppress(OSError):
        (run_dir / FOLDER).mkdir(exist_ok=True)
        write_atomically(run_dir / FOLDER / _PHASE, json.dumps(asdict(phase)))


def _clock(seconds: float) -> str:
    """Format seconds as `2:05` or `1:02:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _counts(run_dir: Path) -> tuple[int, int, int]:
    """Return episodes of training, of validations, and tokens, over all processes of the session."""
    rows = [_read(file) for file in (run_dir / FOLDER).glob("*") if file.name != _PHASE and file.name[0] != "."]
    training, validation, tokens = (
        sum(row.get(name, 0) for row in rows) for name in ("episodes", "validation", "tokens")
    )
    return training, validation, tokens


def _read(file: Path) -> dict[str, Any]:
    try:
        row = read_json(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return row if isinstance(row, dict) else {}
