"""Descriptors in flight, sent over a local socket and not received yet: a user may have 256 in all calls together."""

import contextlib
import stat

from . import descriptors, rest

MAX_IN_FLIGHT = 48
"""Largest number of descriptors that a call may have in flight for longer than a moment."""
_OF_A_HIDDEN_ONE = 16
_OWN_SOCKETS = 2  # the two ends of the channel between PID 1 and the program


class Flight:
    """Descriptors in flight of one program and all that it starts, looked at from time to time."""

    def __init__(self) -> None:
        self._were_too_many = False

    def is_too_full(self, proc: int, at_rest: bool) -> bool:
        """Return True if there is too much, and was at the last look too or cannot be taken, for all processes rest."""
        before, self._were_too_many = self._were_too_many or at_rest, _number(proc) > MAX_IN_FLIGHT
        return before and self._were_too_many


def _number(proc: int) -> int:
    """Return the number of descriptors in flight; a socket that is itself in flight may hold some unseen."""
    lines = rest.whole(proc, "net/unix").splitlines()[1:]
    sockets = {int(line.split()[6]) for line in lines} - {0}
    if len(sockets) <= _OWN_SOCKETS:
        return 0
    number, seen = 0, set()
    for status, description in descriptors.of_all(proc, ("1", *rest.processes(proc))):
        if stat.S_ISSOCK(status.st_mode) and status.st_ino not in seen:
            seen.add(status.st_ino)
            with contextlib.suppress(OSError):
                number += _waiting(rest.read(proc, description))
    return number + _OF_A_HIDDEN_ONE * len(sockets - seen)


def _waiting(described: bytes) -> int:
    """Return how many descriptors wait in a socket to be received."""
    return sum(int(line.split()[1]) for line in described.splitlines() if line.startswith(b"scm_fds:"))
