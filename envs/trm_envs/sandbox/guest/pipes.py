"""The pipes of a call's processes, seen by their PID 1: a user has so many pages for them in all calls together."""

import contextlib
import os
import stat

from . import rest

MAX_PIPES = 128
"""Largest number of pipes that a call may have open."""


def are_too_many(proc: int) -> bool:
    """Return True if the processes of the call have more pipes open than they may, named ones included."""
    pids = rest.processes(proc)
    if sum(_num_open(proc, pid) for pid in pids) <= MAX_PIPES:
        return False
    pipes = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for fd in rest.names(proc, f"{pid}/fd"):
                with contextlib.suppress(OSError):
                    found = os.stat(f"{pid}/fd/{fd}", dir_fd=proc)
                    if stat.S_ISFIFO(found.st_mode):
                        pipes.add((found.st_dev, found.st_ino))
    return len(pipes) > MAX_PIPES


def _num_open(proc: int, pid: str) -> int:
    """Return the number of a process's descriptors."""
    with contextlib.suppress(OSError):
        return os.stat(f"{pid}/fd", dir_fd=proc).st_size or len(rest.names(proc, f"{pid}/fd"))  # 0 before Linux 6.2
    return 0
