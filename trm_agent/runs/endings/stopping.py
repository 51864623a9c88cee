"""A stop on request: SIGTERM and SIGUSR1 end a run after its step, which is saved; a second signal ends it at once.

The command's process gets the signal and leaves a file in the run's folder; the trainer, in another process, looks
for it. Exit codes are those of a shell, 128 plus the signal's number: schedulers read them as "try again".
"""

import json
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from trm_agent.runs.folder import STARTUP_FILE, write_atomically
from trm_agent.runs.screen import VALIDATION_FAILURES

STOP_FILE = ".stop"
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
SAME_SIGNAL_S = 2.0
"""Seconds in which a second signal counts as the first: `timeout` sends to the process and then to its group."""
TRAINING = "agent loops"
"""The last phase of the start-up; before it there is no step to finish."""


class StopRequested(Exception):
    """The trainer's end at the request of the command's process."""


def exit_code(number: int) -> int:
    """Return the exit code of a run that a signal stopped: 143 for SIGTERM, 138 for SIGUSR1."""
    return 128 + number


def stop_requested(path: Path) -> bool:
    """Whether a run was asked to stop."""
    return (path / STOP_FILE).exists()


def forget_stop(path: Path) -> None:
    """Remove the request of an earlier session."""
    (path / STOP_FILE).unlink(missing_ok=True)


def owes_validation(rows: Iterable[Mapping[str, Any]], step: int, every: int, total: int) -> bool:
    """Whether a step after which a run is resumed lacks the validation that is due; never so for step 0.

    Args:
        rows: rows of metrics.jsonl.
        step: the step.
        every: steps between validations (`trainer.test_freq`); 0 or less for none.
        total: the run's last step, after which one is due too.
    """
    is_due = step > 0 and every > 0 and (step % every == 0 or step >= total)
    # a step of another run, whose checkpoint this one began with, has no row
    own = [row for row in rows if row["step"] == step]
    return is_due and bool(own) and not any(VALIDATION_FAILURES in row for row in own)


class StopSignals:
    """The command's reaction to the signals.

    Args:
        path: the folder of the run.
        say: prints a line for the user.
        now: seconds of a clock that only goes forward.
    """

    def __init__(self, path: Path, say: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        self.path, self._say, self._now = path, say, now
        self.number: int | None = None
        """Number of the first signal; None before one."""
        self.how = ""
        """What the signal ended, for the user."""
        self._first = 0.0

    def listen(self) -> None:
        """Take the signals over, also from Ray, which does it as it starts."""
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.number is None:
            self.number, self._first = number, self._now()
            try:
                write_atomically(self.path / STOP_FILE, json.dumps({"signal": name, "time": time.time()}) + "\n")
            except OSError as error:
                # such as a full disk: the trainer cannot be told
                self._leave(f"{name}, at once, since {self.path} cannot be written ({error.strerror})")
            if not _is_training(self.path):
                self._leave(f"{name} before the first step of this session")
            self.how = f"{name} after the last step"
            self._say(f"{name}: the run ends after this step, which is saved; a second signal ends it at once")
        elif self._now() - self._first > SAME_SIGNAL_S:
            self._leave(f"{name}, the second signal, at once")

    def _leave(self, how: str) -> None:
        self.how = how
        raise SystemExit(exit_code(self.number or signal.SIGTERM))


def _is_training(path: Path) -> bool:
    """Whether the start-up is over."""
    file = path / STARTUP_FILE
    return file.exists() and f'"{TRAINING}"' in file.read_text(encoding="utf-8", errors="replace")
