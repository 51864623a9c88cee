"""Memory of a call's processes with their page tables, seen by their PID 1 in a /proc that hides none of them."""

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterable
from typing import NamedTuple

from . import rest

WATCH_S, SHORTEST_WATCH_S = 0.05, 0.002
"""Longest and shortest interval at which the memory of all the call's processes is added up."""
FASTEST_GROWTH = 4 << 30
"""Bytes per second by which a process may grow: the next look comes before the limit can be passed."""
END_LOOK_S = 0.002
"""Interval of looking whether those that are ending have ended, where all others wait for them."""
_PAGE = 4096
_SIZES = re.compile(rb"\nRssAnon:\s*(\d+) kB\n(?:.*\n)*?VmPTE:\s*(\d+) kB\n(?:.*\n)*?VmSwap:\s*(\d+) kB\n")
"""Of a process: what is resident, its page tables, what was swapped out."""
_ENDED = re.compile(rb"\nState:\t[ZX]")
"""Of a process that has given its memory back."""
_SHARES = re.compile(rb"^(?:Pss_Anon|SwapPss):\s*(\d+) kB$", re.MULTILINE)
_SHARE = re.compile(rb"^(?:Pss|SwapPss):\s*(\d+) kB$", re.MULTILINE)  # before Linux 5.4
_PROCESSORS = os.cpu_count() or 1


class _Size(NamedTuple):
    """The memory of a process as it shows."""

    shown: int
    """Resident bytes, page tables and what was swapped out."""
    is_ending: bool
    """Whether it is giving back memory that does not show, as it ends or takes another program: by itself, as fast as
    its own share of the processor lets it."""
    is_loading: bool = False
    """Whether it takes another program, see `rest.is_loading`."""


class Use:
    """The memory without a file that a program and all that it starts hold."""

    def __init__(self) -> None:
        self._shares = 0
        self._seen: dict[str, tuple[int, int]] = {}  # when these were taken: resident bytes and faults by process
        self._last: dict[str, int] = {}
        """Bytes of each process at the last look."""
        self._ending: dict[str, int] = {}
        """Bytes of those that were ending then."""
        self._looked = time.monotonic()

    def of_all(self, proc: int, limit: int, stops: bool, is_held: bool, deadline: float) -> int:
        """Return resident bytes, and if over `limit`, exact shares, or these and all that can have come since.

        If that is over `limit` too they are killed at once: who is let go first takes more. Only where it is those that
        are ending who hold it, all wait for these.

        Args:
            proc: a /proc that hides nothing.
            limit: bytes that they may have.
            stops: whether they run, and nothing else holds them to it: the shares take time, in which they are stopped.
            is_held: whether control groups hold them to it, and count those that are ending.
            deadline: of the call, until which they may have to wait.
        """
        looks = {pid: _size(proc, pid) for pid in rest.processes(proc)}
        ending = {} if is_held else {pid: self._held(proc, pid, size) for pid, size in looks.items() if size.is_ending}
        sizes = {pid: size.shown for pid, size in looks.items()} | ending
        self._last, self._ending, self._looked = sizes, ending, time.monotonic()
        if sum(sizes.values()) <= limit:
            self._seen = {}
            return sum(sizes.values())
        seen = {pid: (size, 0 if looks[pid].is_ending else _faults(proc, pid)) for pid, size in sizes.items()}
        most = self._shares + sum(_growth(self._seen.get(pid, (0, 0)), now) for pid, now in seen.items())
        if self._seen and most <= limit:
            return most
        self._seen = seen
        with rest.stopped(proc) if stops and (ending or len(sizes) > 1) else contextlib.nullcontext():
            shares = {pid: min(size, _share(proc, pid, size)) for pid, size in sizes.items() if pid not in ending}
            self._last = shares | ending
            self._shares = sum(self._last.values())
            if sum(shares.values()) > limit:
                rest.signal_all(signal.SIGKILL)
            elif self._shares > limit:
                _wait_for(proc, ending, deadline)
                self._seen = {}
                return limit
        return self._shares

    def _held(self, proc: int, pid: str, size: _Size) -> int:
        """Return the bytes that an ending process can have held: each was a fault, unless it was of a large page."""
        if pid in self._ending:
            return max(size.shown, self._ending[pid])
        last = self._last.get(pid, 0)
        if size.is_loading:
            return max(size.shown, last + int((time.monotonic() - self._looked) * FASTEST_GROWTH))
        return max(last, _faults(proc, pid) * _PAGE)


def patience(left: int, processes: int = 0) -> float:
    """Return the seconds until the next look, within bounds, before what is left of the memory can be used up.

    Several processes may keep PID 1 waiting: it looks twice as often.

    Args:
        left: bytes.
        processes: how many there are; 0 before the first look.
    """
    return min(WATCH_S, max(SHORTEST_WATCH_S, left / _growth_of(processes) / (2 if processes > 1 else 1)))


def can_be_used_up(left: int, seconds: float, processes: int) -> bool:
    """Return True if several processes can have used up in this time what was left of the memory.

    A single one is held by its own limit.
    """
    return processes > 1 and seconds * _growth_of(processes) > left


def _growth_of(processes: int) -> int:
    """Return the bytes per second by which so many processes may grow, each of which may have become two."""
    return FASTEST_GROWTH * min(2 * processes or _PROCESSORS, _PROCESSORS)


def _growth(before: "tuple[int, int]", now: "tuple[int, int]") -> int:
    """Return the most that a process can have grown: a page that it shared and writes to is new, and a fault."""
    return max(0, now[0] - before[0]) + max(0, now[1] - before[1]) * _PAGE


def _faults(proc: int, pid: str) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(rest.read(proc, f"{pid}/stat").rpartition(b") ")[2].split()[7])
    return 0


def _wait_for(proc: int, pids: "Iterable[str]", deadline: float) -> None:
    while any(_size(proc, pid).is_ending for pid in pids) and time.monotonic() < deadline:
        time.sleep(END_LOOK_S)


def _size(proc: int, pid: str) -> _Size:
    """Return what a process shows, also if the thread with which it began has ended."""
    is_ending = False
    for folder in rest.folders(proc, pid):
        with contextlib.suppress(OSError):
            text = rest.read(proc, f"{folder}/status")
            if found := _SIZES.search(text):
                is_loading = rest.is_loading(text)
                return _Size(sum(map(int, found.groups())) * 1024, is_loading, is_loading)
            is_ending = is_ending or _ENDED.search(text) is None
    return _Size(0, is_ending)


def _share(proc: int, pid: str, otherwise: int) -> int:
    """Return the process's part of its pages, each of which it shares with some others; a hidden one shares none."""
    with contextlib.suppress(OSError, ValueError):
        text = rest.read(proc, f"{pid}/smaps_rollup")
        shares = (_SHARES if b"\nPss_Anon:" in text else _SHARE).findall(text)
        if shares:
            tables = _SIZES.search(rest.read(proc, f"{pid}/status"))
            return sum(map(int, shares)) * 1024 + (int(tables[2]) * 1024 if tables else 0)
    return otherwise
