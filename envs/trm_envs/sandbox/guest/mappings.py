"""Mappings of a call's processes: each is memory of the kernel's, and more the more ancestors a process has.

One process has at most 65,530. To count them takes a microsecond each, so that is done where there are several alone.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence

from . import rest

MAX_MAPPINGS = 16_384
"""Largest number of mappings of all processes of a call together, where there are several."""
_TEXT = 128  # bytes for each in the kernel's list of them
MAX_TEXT = _TEXT * MAX_MAPPINGS
"""Largest number of bytes of that list: names of files in it may be long, and take long to write."""
FEW = 2000
"""Number of mappings that are counted while the processes run."""


def are_too_many(proc: int, pids: "Sequence[str]", stops: bool) -> bool:
    """Return True if these processes have more mappings together than a call may have.

    Args:
        proc: a /proc that hides nothing.
        pids: the processes.
        stops: whether they run, and nothing else holds them to their memory: many are counted while they are stopped.
    """
    number = length = 0
    with contextlib.ExitStack() as stack:
        for lines in _lists(proc, pids) if len(pids) > 1 else ():
            number += lines.count(b"\n")
            length += len(lines)
            if number > MAX_MAPPINGS or length > MAX_TEXT:
                return True
            if stops and (number > FEW or length > _TEXT * FEW):
                stops = False
                stack.enter_context(rest.stopped(proc))
    return False


def _lists(proc: int, pids: "Sequence[str]") -> "Iterator[bytes]":
    """Return the lists of their mappings, some 40 at a time, as the kernel gives them."""
    for pid in pids:
        with contextlib.suppress(OSError):  # it has just ended
            fd = os.open(f"{pid}/maps", os.O_RDONLY, dir_fd=proc)
            try:
                while lines := os.read(fd, 1 << 16):
                    yield lines
            finally:
                os.close(fd)
