"""A call's share of the processor, where no control group holds it: with more threads that run each weighs less."""

import contextlib
import math
import os
import re

from . import crowds, rest

_STEP, _LOWEST = 1.25, 19
"""By how much a thread weighs less at the next nice value, and the last of these."""
_STATUS = re.compile(rb"\nState:\t(\w)(?:.*\n)*?Threads:\t(\d+)\n")


class Share:
    """The weight of one program's threads; it can only be lowered."""

    def __init__(self) -> None:
        self._own = os.getpriority(os.PRIO_PROCESS, 0)  # of PID 1, which has that of the host's process
        self._nice = self._own
        self._ran = 1
        self._room = 0
        """Number of threads that can be made until all must be counted again."""

    def admit(self, proc: int) -> None:
        """See to it that a crowd is lowered before a thread of it is made, which weighs what its maker does.

        Args:
            proc: a /proc that hides nothing.
        """
        self._room -= 1
        if self._room < 0:
            now = crowds.size(proc)
            grown = now._replace(threads=now.threads + 1)
            if grown.is_crowd:
                self.lower(proc, 1)
            self._room = grown.threads // 4 if grown.is_crowd else max(0, crowds.CROWD - grown.threads)

    def lower(self, proc: int, num_made: int = 0) -> None:
        """Let all threads of a crowd, also those that wait, together weigh what one does: as much as their PID 1.

        Args:
            proc: a /proc that hides nothing.
            num_made: threads that are about to be made.
        """
        tids = []
        for pid in rest.processes(proc):
            with contextlib.suppress(OSError):  # it has just ended
                tids += rest.names(proc, f"{pid}/task")
        self._lower(len(tids) + num_made)
        for tid in tids:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, int(tid), self._nice)

    def look(self, proc: int) -> None:
        """Count the threads that run, and let all together weigh what one does.

        As many count as ran at two looks, so that a moment's coincidence does not; a crowd counts at once.

        Args:
            proc: a /proc that hides nothing.
        """
        nice = {}
        running = 0
        for pid in rest.processes(proc):
            with contextlib.suppress(OSError, ValueError, IndexError):
                for tid, state, value in _threads(proc, pid):
                    running += state == b"R"
                    nice[tid] = value
        counted = running if running > crowds.CROWD else min(running, self._ran)
        self._lower(counted)
        self._ran = running
        for tid, value in nice.items():
            if value < self._nice:
                with contextlib.suppress(OSError):
                    os.setpriority(os.PRIO_PROCESS, tid, self._nice)

    def _lower(self, number: int) -> None:
        steps = math.ceil(math.log(max(1, number), _STEP))
        self._nice = max(self._nice, min(_LOWEST, self._own + steps))


def _threads(proc: int, pid: str) -> "list[tuple[int, bytes, int]]":
    """Return number, state and nice value of each thread of a process, nothing of which waits for it."""
    state, number = _of(proc, f"{pid}/status")
    if number == 1:
        return [(int(pid), state, os.getpriority(os.PRIO_PROCESS, int(pid)))]
    tids = rest.names(proc, f"{pid}/task")
    return [
        (int(tid), _of(proc, f"{pid}/task/{tid}/status")[0], os.getpriority(os.PRIO_PROCESS, int(tid))) for tid in tids
    ]


def _of(proc: int, path: str) -> "tuple[bytes, int]":
    """Return the state of a thread, and the number of its process's threads."""
    found = _STATUS.search(rest.read(proc, path))
    return (found[1], int(found[2])) if found else (b"", 0)
