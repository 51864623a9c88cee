"""Crowds: so many threads that run beside their PID 1 that they would leave it no time to look at them."""

import contextlib
import os
from typing import NamedTuple

from . import rest

CROWD = 8
"""Number of threads of several processes that may run while they are looked at."""


class Size(NamedTuple):
    """The number of processes of a call, and of their threads."""

    processes: int
    threads: int

    @property
    def is_crowd(self) -> bool:
        """Whether they must be stopped to be looked at in time; one process is held by its own limits."""
        return self.processes > 1 and self.threads > CROWD


def size(proc: int) -> Size:
    """Count what runs beside PID 1 in a /proc that hides nothing."""
    pids = rest.processes(proc)
    return Size(len(pids), sum(_number_of_threads(proc, pid) for pid in pids))


def _number_of_threads(proc: int, pid: str) -> int:
    with contextlib.suppress(OSError):  # it has just ended
        return os.stat(f"{pid}/task", dir_fd=proc).st_nlink - 2
    return 0
