"""What a call holds of things that all calls share or that no limit counts, seen by its PID 1 from time to time.

A look at each descriptor takes time, in which nothing else is watched: so their number is bounded too.
"""

import os
import stat
import time
from collections.abc import Sequence

from . import descriptors, flight, mappings, rest
from .descriptors import Descriptor
from .questions import MAX_SOCKETS, Questions, number_of_sockets

MAX_DESCRIPTORS = 2048
"""Largest number of descriptors that all processes of a call may have open together."""
MAX_PIPES = 128
"""Largest number of pipes of a call, named ones included: a user has so many pages for them in all calls together."""
MAX_PROC_FILES = 64
"""Largest number of open files of /proc of a call: each keeps the text that was read, up to a megabyte, in the
kernel's memory."""
MAX_CONNECTIONS = 2 * MAX_SOCKETS
"""Largest number of sockets with connections that wait to be accepted, which nobody is asked for."""
LOOK_S = 0.05
"""Shortest interval between two looks."""


class Holdings:
    """The holdings of one program and of all that it starts."""

    def __init__(self) -> None:
        self._flight = flight.Flight()
        self._next_look = 0.0

    def are_too_many(self, proc: int, questions: "Questions | None", at_rest: bool, stops: bool) -> bool:
        """Return True if it holds a lock that is not its own, or too much of anything; False between two looks.

        Args:
            proc: a /proc that hides nothing.
            questions: what it has asked for; None if PID 1 cannot be asked.
            at_rest: whether all processes rest: it is looked at in any case.
            stops: whether they run, and nothing else holds them to their memory: they are stopped for a long look.
        """
        if not at_rest and time.monotonic() < self._next_look:
            return False
        pids = rest.processes(proc)
        number = sum(descriptors.number(proc, pid) for pid in pids)
        sockets = flight.sockets(proc)
        is_doubtful = questions is not None and questions.is_doubtful
        is_to_be_seen = is_doubtful or number > MAX_PROC_FILES or len(sockets) > flight.OWN_SOCKETS
        if (
            number > MAX_DESCRIPTORS
            or _waiting_connections(proc, questions)
            or mappings.are_too_many(proc, pids, stops)
        ):
            return True
        held = list(descriptors.of_all(proc, ("1", *pids))) if is_to_be_seen else []
        is_unsound = questions is not None and not questions.is_sound(proc, held)
        is_too_full = self._flight.is_too_full(proc, sockets, held, at_rest)
        self._next_look = time.monotonic() + LOOK_S
        return is_unsound or is_too_full or _are_too_many_files(held)


def _are_too_many_files(held: "Sequence[Descriptor]") -> bool:
    """Return True if there are more pipes or files of /proc among the descriptors than a call may have."""
    own_proc = os.stat("/proc").st_dev
    pipes = {(each.status.st_dev, each.status.st_ino) for each in held if stat.S_ISFIFO(each.status.st_mode)}
    files = [each for each in held if each.status.st_dev == own_proc and stat.S_ISREG(each.status.st_mode)]
    return len(pipes) > MAX_PIPES or len(files) > MAX_PROC_FILES


def _waiting_connections(proc: int, questions: "Questions | None") -> bool:
    used_network = questions is None or questions.used_network
    return used_network and number_of_sockets(proc) > MAX_CONNECTIONS
