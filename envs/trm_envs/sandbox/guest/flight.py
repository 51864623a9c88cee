"""Descriptors in flight, sent over a local socket and not received yet: a user may have 256 in all calls together."""

import contextlib
import re
import stat
from collections.abc import Sequence

from . import rest
from .descriptors import Descriptor

MAX_IN_FLIGHT = 48
"""Largest number of descriptors that a call may have in flight for longer than a moment."""
OWN_SOCKETS = 2
"""Number of sockets of the channel between PID 1 and the program."""
_OF_A_HIDDEN_ONE = 16
# address, four numbers, state, inode; the name, which may hold anything, newlines too, can only add sockets to the list
_SOCKET = re.compile(rb"^[0-9a-fA-F]+:(?: [0-9A-F]+){5} +(\d{1,20})", re.MULTILINE)


class Flight:
    """Descriptors in flight of one program and all that it starts, looked at from time to time."""

    def __init__(self) -> None:
        self._were_too_many = False

    def is_too_full(self, proc: int, sockets: "set[int]", held: "Sequence[Descriptor]", at_rest: bool) -> bool:
        """Return True if there is too much, and was at the last look too or cannot be taken, for all processes rest.

        Args:
            proc: a /proc that hides nothing.
            sockets: the local sockets that there are.
            held: the descriptors of all processes, PID 1 included; of no use with no more sockets than `OWN_SOCKETS`.
            at_rest: whether all processes rest.
        """
        number = _number(proc, sockets, held) if len(sockets) > OWN_SOCKETS else 0
        before, self._were_too_many = self._were_too_many or at_rest, number > MAX_IN_FLIGHT
        return before and self._were_too_many


def sockets(proc: int) -> "set[int]":
    """Return the inodes of the local sockets of the call and of its PID 1."""
    return set(map(int, _SOCKET.findall(rest.whole(proc, "net/unix")))) - {0}


def _number(proc: int, sockets: "set[int]", held: "Sequence[Descriptor]") -> int:
    """Return the number of descriptors in flight; a socket that is itself in flight may hold some unseen."""
    number, seen = 0, set()
    for each in held:
        if stat.S_ISSOCK(each.status.st_mode) and each.status.st_ino not in seen:
            seen.add(each.status.st_ino)
            with contextlib.suppress(OSError):
                number += _waiting(rest.read(proc, each.description))
    return number + _OF_A_HIDDEN_ONE * len(sockets - seen)


def _waiting(described: bytes) -> int:
    """Return how many descriptors wait in a socket to be received."""
    return sum(int(line.split()[1]) for line in described.splitlines() if line.startswith(b"scm_fds:"))
