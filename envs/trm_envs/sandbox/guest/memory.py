"""Memory of a call's processes with their page tables, seen by their PID 1 in a /proc that hides none of them."""

import contextlib
import os
import re
import signal

from . import crowds, rest

WATCH_S, SHORTEST_WATCH_S = 0.05, 0.002
"""Longest and shortest interval at which the memory of all the call's processes is added up."""
FASTEST_GROWTH = 4 << 30
"""Bytes per second by which a process may grow: the next look comes before the limit can be passed."""
_PAGE = 4096
_SIZES = re.compile(rb"\nRssAnon:\s*(\d+) kB\n(?:.*\n)*?VmPTE:\s*(\d+) kB\n(?:.*\n)*?VmSwap:\s*(\d+) kB\n")
"""Of a process: what is resident, its page tables, what was swapped out."""
_SHARES = re.compile(rb"^(?:Pss_Anon|SwapPss):\s*(\d+) kB$", re.MULTILINE)
_SHARE = re.compile(rb"^(?:Pss|SwapPss):\s*(\d+) kB$", re.MULTILINE)  # before Linux 5.4
_PROCESSORS = os.cpu_count() or 1
_AS_MANY = crowds.Size(_PROCESSORS, _PROCESSORS)


class Use:
    """The memory without a file that a program and all that it starts hold."""

    def __init__(self) -> None:
        self._shares = 0
        self._seen: dict[str, tuple[int, int]] = {}  # when these were taken: resident bytes and faults by process

    def of_all(self, proc: int, limit: int, stops: bool) -> int:
        """Return resident bytes, and if over `limit`, exact shares, or these and all that can have come since.

        If that is over `limit` too they are killed at once: who is let go first takes more.

        Args:
            proc: a /proc that hides nothing.
            limit: bytes that they may have.
            stops: whether they run, and nothing else holds them to it: the shares take time, in which they are stopped.
        """
        sizes = {pid: _resident(proc, pid) for pid in rest.processes(proc)}
        if sum(sizes.values()) <= limit:
            self._seen = {}
            return sum(sizes.values())
        seen = {pid: (size, _faults(proc, pid)) for pid, size in sizes.items()}
        most = self._shares + sum(_growth(self._seen.get(pid, (0, 0)), now) for pid, now in seen.items())
        if self._seen and most <= limit:
            return most
        with rest.stopped(proc) if stops and len(sizes) > 1 else contextlib.nullcontext():
            self._shares = sum(min(size, _share(proc, pid, size)) for pid, size in sizes.items())
            if self._shares > limit:
                rest.signal_all(signal.SIGKILL)
        self._seen = seen
        return self._shares


def patience(left: int, size: crowds.Size = _AS_MANY) -> float:
    """Return the seconds in which so many threads cannot use up what is left of the memory, within bounds.

    Among a crowd PID 1 wakes late, and looks twice as often.
    """
    growth = FASTEST_GROWTH * max(1, min(size.processes, _PROCESSORS)) * (2 if size.is_crowd else 1)
    return min(WATCH_S, max(SHORTEST_WATCH_S, left / growth))


def _growth(before: "tuple[int, int]", now: "tuple[int, int]") -> int:
    """Return the most that a process can have grown: a page that it shared and writes to is new, and a fault."""
    return max(0, now[0] - before[0]) + max(0, now[1] - before[1]) * _PAGE


def _faults(proc: int, pid: str) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(rest.read(proc, f"{pid}/stat").rpartition(b") ")[2].split()[7])
    return 0


def _resident(proc: int, pid: str) -> int:
    """Return the resident bytes of a process, also if the thread with which it began has ended."""
    sizes = (_of(proc, folder) for folder in rest.folders(proc, pid))
    return next((size for size in sizes if size is not None), 0)


def _of(proc: int, folder: str) -> "int | None":
    with contextlib.suppress(OSError):
        if found := _SIZES.search(rest.read(proc, f"{folder}/status")):
            return sum(map(int, found.groups())) * 1024
    return None


def _share(proc: int, pid: str, otherwise: int) -> int:
    """Return the process's part of its pages, each of which it shares with some others; a hidden one shares none."""
    with contextlib.suppress(OSError, ValueError):
        text = rest.read(proc, f"{pid}/smaps_rollup")
        shares = (_SHARES if b"\nPss_Anon:" in text else _SHARE).findall(text)
        if shares:
            tables = _SIZES.search(rest.read(proc, f"{pid}/status"))
            return sum(map(int, shares)) * 1024 + (int(tables[2]) * 1024 if tables else 0)
    return otherwise
