"""Runs two commands by turns of a few seconds: one is stopped while the other runs.

A host that shares its processors gives now more, now less of them, for minutes. Two runs after one another then meet
different machines; by turns they meet the same one. What a command took is told on its own clock, which stands still
while it is stopped.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers_watch import (
    Watched,
    adopt_orphans,
    busy_seconds,
    descendants,
    end_all,
    failure,
    own_seconds,
    pss_gib,
    seconds_of,
)


@dataclass
class _Side:
    """A command with its processes."""

    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    timeout_s: float
    ended: threading.Event = field(default_factory=threading.Event)
    process: subprocess.Popen | None = None
    family: set[int] = field(default_factory=set)
    used: dict[int, float] = field(default_factory=dict)
    started: float = 0.0
    pauses: list[tuple[float, float]] = field(default_factory=list)
    peak: float = 0.0
    most: int = 0
    others: float = 0.0
    error: BaseException | None = None

    @property
    def own_s(self) -> float:
        """Seconds in which it ran."""
        return time.time() - self.started - sum(end - start for start, end in self.pauses)


class Turns:
    """The machine, given to several commands by turns; each is run by a thread of its caller's.

    Args:
        num_sides: how many commands there will be: none starts before all are there.
        slice_s: seconds of a turn.
    """

    def __init__(self, num_sides: int, slice_s: float) -> None:
        self.num_sides, self.slice_s = num_sides, slice_s
        self._sides: list[_Side] = []
        self._lock = threading.Lock()

    def run(self, command: Sequence[str], environment: Mapping[str, str], log: Path, timeout_s: float) -> Watched:
        """Run a command to its end, by turns with the others. Arguments and errors are those of `run_watched`."""
        side = _Side(command, environment, log, timeout_s)
        with self._lock:
            self._sides.append(side)
            if len(self._sides) == self.num_sides:
                threading.Thread(target=self._take_turns, daemon=True).start()
        side.ended.wait()
        if side.error is not None:
            raise side.error
        return Watched(side.started, side.peak, side.most, side.others, tuple(side.pauses))

    def abandon(self, error: BaseException) -> None:
        """Let nobody wait for a command that will not come, since its caller failed before."""
        with self._lock:
            if len(self._sides) < self.num_sides:
                for side in self._sides:
                    side.error = error
                    side.ended.set()

    def _take_turns(self) -> None:
        adopt_orphans()
        strangers = set(descendants())
        began, busy, own = time.time(), busy_seconds(), own_seconds()
        try:
            while running := [side for side in self._sides if not side.ended.is_set()]:
                for side in running:
                    is_over = self._turn(side, is_alone=len(running) == 1)
                    self._look(side, strangers)
                    used = max(own_seconds() - own, sum(sum(each.used.values()) for each in self._sides))
                    side.others = max(0.0, busy_seconds() - busy - used) / (time.time() - began)
                    if is_over:
                        self._end(side, strangers)
        except BaseException as error:
            for side in self._sides:
                side.error = side.error or error
                side.ended.set()
            end_all(strangers)
            raise

    def _turn(self, side: _Side, *, is_alone: bool) -> bool:
        """Let a command run for its turn; return True if it has ended."""
        if side.process is None:
            side.started = time.time()
            with side.log.open("wb") as file:
                side.process = subprocess.Popen(
                    side.command, env=dict(side.environment), stdout=file, stderr=subprocess.STDOUT
                )
        elif side.pauses and side.pauses[-1][1] == float("inf"):
            side.pauses[-1] = (side.pauses[-1][0], time.time())
            send(side.family, signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            side.process.wait(self.slice_s)
            return True
        if side.own_s > side.timeout_s:
            side.error = TimeoutError(f"{' '.join(side.command)}: more than {side.timeout_s:.0f} s; see {side.log}")
            return True
        if not is_alone:
            side.pauses.append((time.time(), float("inf")))
        return False

    def _look(self, side: _Side, strangers: set[int]) -> None:
        """Find the processes of a command whose turn is over, stop them if it is paused, and measure them."""
        is_paused = bool(side.pauses) and side.pauses[-1][1] == float("inf")
        foreign = strangers.union(*(each.family for each in self._sides if each is not side))
        while True:
            found = set(descendants()) - foreign
            if is_paused:
                send(found, signal.SIGSTOP)
            if found <= side.family:
                break
            side.family |= found
            if not is_paused:
                break
        side.family = found
        side.peak = max(side.peak, sum(map(pss_gib, side.family)))
        side.most = max(side.most, len(side.family))
        side.used |= {pid: max(side.used.get(pid, 0.0), seconds_of(pid)) for pid in side.family}

    def _end(self, side: _Side, strangers: set[int]) -> None:
        assert side.process is not None
        others = strangers.union(*(each.family for each in self._sides if each is not side))
        end_all(others)
        if side.process.returncode and side.error is None:
            side.error = failure(side.command, side.process.returncode, side.log)
        side.ended.set()


def send(pids: set[int], number: signal.Signals) -> None:
    """Send a signal to processes, some of which may have ended."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def on_own_clock(moment: float, pauses: Sequence[tuple[float, float]]) -> float:
    """Return a moment less the pauses before it, seconds since the epoch."""
    return moment - sum(min(moment, end) - start for start, end in pauses if start < moment)
