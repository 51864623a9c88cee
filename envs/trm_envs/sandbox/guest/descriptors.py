"""The descriptors of a call's processes, seen by their PID 1 in a /proc that hides none of them."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from . import rest


class Descriptor(NamedTuple):
    """A descriptor of a process."""

    status: os.stat_result
    """The status of what it leads to."""
    path: str
    """Its place in the folder, a link that names what it leads to."""
    description: str
    """The place of the text in which the kernel describes it."""


def number(proc: int, pid: str) -> int:
    """Return how many descriptors a process has."""
    with contextlib.suppress(OSError):
        return os.stat(f"{pid}/fd", dir_fd=proc).st_size or len(rest.names(proc, f"{_table(proc, pid)}/fd"))
    return 0  # the former is 0 before Linux 6.2, and of a process whose first thread has ended


def of_all(proc: int, pids: "Iterable[str]") -> "Iterator[Descriptor]":
    """Return each descriptor of these processes."""
    for pid in pids:
        table = _table(proc, pid)
        with contextlib.suppress(OSError):
            for fd in rest.names(proc, f"{table}/fd"):
                path = f"{table}/fd/{fd}"
                with contextlib.suppress(OSError):
                    yield Descriptor(os.stat(path, dir_fd=proc), path, f"{table}/fdinfo/{fd}")


def _table(proc: int, pid: str) -> str:
    """Return the folder of a thread that has the process's descriptors, which one that has ended has no more."""
    return next((folder for folder in rest.folders(proc, pid) if _names(proc, f"{folder}/fd")), pid)


def _names(proc: int, path: str) -> "list[str]":
    with contextlib.suppress(OSError):  # an ended thread's folder is not to be read
        return rest.names(proc, path)
    return []
