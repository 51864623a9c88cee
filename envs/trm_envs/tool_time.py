"""Budgets of time for a model's programs: time allowed, time used, and time spent waiting for a place.

The model pays from its budget for everything that runs on its text, above all its programs, also while they sleep.
Nobody pays for a wait: for a free place in a sandbox, for a supervisor, for a worker that scores.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import replace
from enum import Enum
from typing import Any

from trm_fields import ABOVE_0

LEAST_S = 0.01
"""Time below which a budget counts as used up, since no sandbox runs a program for a shorter time."""

_current: "ContextVar[ToolTime | None]" = ContextVar("trm_tool_time", default=None)


class _Mode(Enum):
    """The payer of the passing time."""

    IDLE = "idle"  # nobody: no step is under way
    OWN = "own"  # the model: the environment's code works on its text
    PROGRAM = "program"  # the model, up to the program's limit; the cost of its start and end is known at the end
    WAIT = "wait"  # nobody, and it is counted


class ProgramRun:
    """A running program; see `ToolTime.program`."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.on_the_clock_s = 0.0
        self.ran_s = 0.0

    def ran(self, seconds: float) -> None:
        """Report the sandbox's duration of the run; without a report the run costs nothing, as after a failure."""
        self.ran_s = max(0.0, seconds)


class ToolTime:
    """The account of one environment's time. Every method may be called from any thread, also during a step.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._turn_limit_s = self._episode_limit_s = math.inf
        self._mode, self._since = _Mode.IDLE, clock()
        self._turn_s = self._episode_s = self._wait_s = 0.0
        self._run: ProgramRun | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the lock out, so that an environment can be copied."""
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def set_limits(self, turn_s: float | None, episode_s: float | None) -> None:
        """Set the budgets of each turn and of the episode, in seconds; None means no limit.

        Raises:
            ValueError: if one is not a number above 0.
        """
        for name, value in (("turn_s", turn_s), ("episode_s", episode_s)):
            if value != math.inf:
                replace(ABOVE_0, optional=True).check(name, value, "give seconds, such as 60, or None for no limit")
        with self._lock:
            self._turn_limit_s = math.inf if turn_s is None else float(turn_s)
            self._episode_limit_s = math.inf if episode_s is None else float(episode_s)

    @property
    def turn_limit_s(self) -> float:
        """Return the largest time that one turn may use, infinite without a limit."""
        return min(self._turn_limit_s, self._episode_limit_s)

    @contextlib.contextmanager
    def reset(self) -> Iterator[None]:
        """Forget the last episode's use. The block costs nothing; `waiting` counts."""
        with self._lock:
            self._bank(self._mode)
            self._turn_s = self._episode_s = 0.0
        with self._as_current():
            yield

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Charge the block to a new turn, and let `waiting` refer to this budget."""
        with self._lock:
            self._turn_s = 0.0
        with self._as_current(), self._in_mode(_Mode.OWN):
            yield

    @contextlib.contextmanager
    def program(self, limit_s: float) -> Iterator[ProgramRun]:
        """Charge the block as the run of a program that is stopped after `limit_s`.

        At the end it costs the time that `ProgramRun.ran` was given, and the rest counts as a wait.
        """
        run = ProgramRun(limit_s)
        with self._lock:
            self._bank(self._mode)
            assert self._run is None, "one program at a time"
            self._run = run
        try:
            with self._in_mode(_Mode.PROGRAM):
                yield run
        finally:
            with self._lock:
                self._bank(self._mode)
                self._run = None
                self._charge(run.ran_s)
                # never less than the reports while it ran
                self._wait_s += max(run.on_the_clock_s - min(run.ran_s, run.limit_s), 0.0)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Charge the block to nobody."""
        with self._in_mode(_Mode.WAIT):
            yield

    def turn_used_s(self) -> float:
        """Return the seconds that this turn has used so far."""
        with self._lock:
            self._bank(self._mode)
            return self._turn_s + self._running_s()

    def used_s(self) -> float:
        """Return the seconds that this episode has used so far, running programs included."""
        with self._lock:
            self._bank(self._mode)
            return self._episode_s + self._running_s()

    def waited_s(self) -> float:
        """Return the seconds of waiting so far, the present wait included; the number never shrinks."""
        with self._lock:
            self._bank(self._mode)
            over_s = max(self._run.on_the_clock_s - self._run.limit_s, 0.0) if self._run else 0.0
            return self._wait_s + over_s

    def left_s(self) -> float:
        """Return the seconds that this turn and this episode may still use, infinite without a limit."""
        with self._lock:
            self._bank(self._mode)
            running_s = self._running_s()
            turn_s = self._turn_limit_s - self._turn_s - running_s
            return max(min(turn_s, self._episode_limit_s - self._episode_s - running_s), 0.0)

    def is_used_up(self) -> bool:
        """Return True if this turn's or this episode's budget is spent, running programs included."""
        return self.left_s() < LEAST_S

    @contextlib.contextmanager
    def _as_current(self) -> Iterator[None]:
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    @contextlib.contextmanager
    def _in_mode(self, mode: _Mode) -> Iterator[None]:
        with self._lock:
            before = self._mode
            self._bank(mode)
        try:
            yield
        finally:
            with self._lock:
                self._bank(before)

    def _bank(self, mode: _Mode) -> None:
        """Charge the time since the last call to its payer, and go on in `mode`. The lock is held."""
        now = self._clock()
        seconds, self._since = now - self._since, now
        if self._mode is _Mode.OWN:
            self._charge(seconds)
        elif self._mode is _Mode.WAIT:
            self._wait_s += seconds
        elif self._mode is _Mode.PROGRAM and self._run is not None:
            self._run.on_the_clock_s += seconds
        self._mode = mode

    def _charge(self, seconds: float) -> None:
        self._turn_s += seconds
        self._episode_s += seconds

    def _running_s(self) -> float:
        return min(self._run.on_the_clock_s, self._run.limit_s) if self._run else 0.0


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Charge the block to nobody, in the environment whose step is running; elsewhere do nothing."""
    tool_time = _current.get()
    if tool_time is None:
        yield
        return
    with tool_time.waiting():
        yield
