"""The pipes of a call's processes, seen by their PID 1: a user has so many pages for them in all calls together."""

import stat

from . import descriptors, rest

MAX_PIPES = 128
"""Largest number of pipes that a call may have open."""


def are_too_many(proc: int) -> bool:
    """Return True if the processes of the call have more pipes open than they may, named ones included."""
    pids = rest.processes(proc)
    if sum(descriptors.number(proc, pid) for pid in pids) <= MAX_PIPES:
        return False
    found = (status for status, _ in descriptors.of_all(proc, pids) if stat.S_ISFIFO(status.st_mode))
    return len({(status.st_dev, status.st_ino) for status in found}) > MAX_PIPES
