"""Mappings of a call's processes: each is memory of the kernel's, and more the more ancestors a process has.

One process has at most 65,530. To count them takes a microsecond each, so that is done where there are several alone.
"""

import contextlib
import os
from collections.abc import Sequence

MAX_MAPPINGS = 32_768
"""Largest number of mappings of all processes of a call together, where there are several."""


def are_too_many(proc: int, pids: "Sequence[str]") -> bool:
    """Return True if these processes have more mappings together than a call may have.

    Args:
        proc: a /proc that hides nothing.
        pids: the processes.
    """
    left = MAX_MAPPINGS if len(pids) > 1 else 0
    for pid in pids if left else ():
        with contextlib.suppress(OSError):  # it has just ended
            fd = os.open(f"{pid}/maps", os.O_RDONLY, dir_fd=proc)
            try:
                while left >= 0 and (lines := os.read(fd, 1 << 16)):  # the kernel gives some 40 at a time
                    left -= lines.count(b"\n")
            finally:
                os.close(fd)
        if left < 0:
            return True
    return False
