"""The descriptors of a call's processes, seen by their PID 1 in a /proc that hides none of them."""

import contextlib
import os
from collections.abc import Iterable, Iterator

from . import rest


def number(proc: int, pid: str) -> int:
    """Return how many descriptors a process has."""
    table = _table(proc, pid)
    with contextlib.suppress(OSError):
        return os.stat(f"{table}/fd", dir_fd=proc).st_size or len(rest.names(proc, f"{table}/fd"))  # 0 before Linux 6.2
    return 0


def of_all(proc: int, pids: "Iterable[str]") -> "Iterator[tuple[os.stat_result, str]]":
    """Return what each descriptor leads to, with the path of what the kernel says of it."""
    for pid in pids:
        table = _table(proc, pid)
        with contextlib.suppress(OSError):
            for fd in rest.names(proc, f"{table}/fd"):
                with contextlib.suppress(OSError):
                    yield os.stat(f"{table}/fd/{fd}", dir_fd=proc), f"{table}/fdinfo/{fd}"


def _table(proc: int, pid: str) -> str:
    """Return the folder of a thread that has the process's descriptors, which one that has ended has no more."""
    if not _names(proc, f"{pid}/fd"):
        for tid in _names(proc, f"{pid}/task"):
            if _names(proc, f"{pid}/task/{tid}/fd"):
                return f"{pid}/task/{tid}"
    return pid


def _names(proc: int, path: str) -> "list[str]":
    with contextlib.suppress(OSError):  # an ended thread's folder is not to be read
        return rest.names(proc, path)
    return []
