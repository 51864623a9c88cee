"""Answers of PID 1 to the filter's questions: for threads, sockets, locks, watches, shared memory, sessions.

A file that all calls have, such as a program or a device of the machine, has one list of locks. So a lock is for the
call's own files alone. While a program with one thread waits for the answer nobody can put another file in the place
of the one that was looked at; with several it could, and a lock that it gets so is looked for afterwards.

Shared memory without a file lives on while one page of it is mapped, and is in no process's size: it counts from its
making to the end of the call. A session of its own would be an equal of all other programs together to the scheduler.
"""

import contextlib
import errno
import fcntl
import os
import re
import stat
import struct
import time
from collections.abc import Sequence

from . import rest, seccomp, wire
from .descriptors import Descriptor
from .shares import Share

MAX_SOCKETS = 64
"""Largest number of sockets that a call may hold; what waits in each is up to 208 KiB of the kernel's memory."""
MAX_LOCKS = 1000
"""Largest number of locks that a call may hold; each is memory of the kernel's."""
MAX_LOCKS_OF_THREADS = 200
"""Largest number of locks of a program with several threads, whose locks are looked at again and again."""
MAX_WATCHES = 10_000
"""Largest number of watches of epoll that a program may add: all calls of a user together have so many."""
_COUNT_S = 1.0
"""Shortest interval between two counts of many locks: everybody's locks wait while the kernel lists them."""
_PAGE = 4096
_EVENTS = "anon_inode:[eventpoll]"
_RECEIVE, _ANSWER, _GO_ON = 0xC0502100, 0xC0182101, 1
_SET_FLAGS, _SAME_PROCESSOR = 0x40082104, 1
_UNLOCK, _AT_ONCE = 8, 4
_DEVICE = re.compile(rb" ([0-9a-f]+):([0-9a-f]+):\d+ ")
_SOCKETS = re.compile(rb"sockets: used (\d+)")
_UNIX = 1


class Questions:
    """The questions of one program and of all that it starts.

    Args:
        listener: the descriptor over which they come.
        share: of the processor, of all that it starts.
    """

    def __init__(self, listener: int, share: Share) -> None:
        self.listener = listener
        self._share = share
        self.used_network = False
        self.shared_bytes = 0
        """Shared memory that the program and its descendants were given."""
        self._most_shared = 0
        self._may_lead = False
        self._locks = 0
        self._next_count = 0.0
        self._watches = 0
        self.is_doubtful = False
        """Whether a lock may have come about on a file that other calls have too."""
        with contextlib.suppress(OSError):  # before Linux 6.6
            fcntl.ioctl(listener, _SET_FLAGS, struct.pack("Q", _SAME_PROCESSOR))

    def begin(self, order: wire.Order) -> None:
        """Take the limits of a call."""
        self._most_shared, self._may_lead = order.memory_bytes, order.has_share

    def answer(self, proc: int) -> None:
        """Answer one question.

        Args:
            proc: a /proc that hides nothing.
        """
        question = bytearray(80)  # of struct seccomp_notif: its number, who asks, the call and its arguments
        with contextlib.suppress(OSError):  # who asked has ended
            fcntl.ioctl(self.listener, _RECEIVE, question)
            number, pid, _, call, _, _, fd, _, operation = struct.unpack_from("QIIiIQIII", question)
            error = 0
            if call in (seccomp.number_of("socket"), seccomp.number_of("socketpair")):
                error = 0 if number_of_sockets(proc) < MAX_SOCKETS else errno.ENFILE
                self.used_network = self.used_network or (error == 0 and fd != _UNIX)
            elif call == seccomp.number_of("mmap"):
                length = (struct.unpack_from("Q", question, 40)[0] // _PAGE + 2) * _PAGE  # and the kernel's own for it
                error = 0 if self.shared_bytes + length <= self._most_shared else errno.ENOMEM
            elif call == seccomp.number_of("epoll_ctl"):
                self._watches += 1  # one that is given up counts on: who watches a file that was sent away is not seen
                error = 0 if self._watches <= MAX_WATCHES else errno.ENOSPC
            elif call == seccomp.number_of("clone"):
                with contextlib.suppress(OSError):  # none can be counted: whoever asked must not wait for ever
                    self._share.admit(proc)
            elif call == seccomp.number_of("setsid"):
                error = 0 if self._may_lead else errno.EPERM
            elif call != seccomp.number_of("flock") or operation & ~_AT_ONCE != _UNLOCK:
                error = self._lock(proc, pid, fd)
            fcntl.ioctl(self.listener, _ANSWER, struct.pack("QqiI", number, 0, -error, 0 if error else _GO_ON))
            if call == seccomp.number_of("mmap") and not error:
                self.shared_bytes += length

    def is_sound(self, proc: int, held: "Sequence[Descriptor]") -> bool:
        """Return False if a lock is held on a file that other calls have too.

        Args:
            proc: a /proc that hides nothing.
            held: the descriptors of all processes; of no use if nothing is doubtful.
        """
        if not self.is_doubtful:
            return True  # else it is looked at to the end: a lock may be had long after it was asked for
        own = _own_device()
        listed = (os.makedev(int(major, 16), int(minor, 16)) for major, minor in _DEVICE.findall(_locks(proc)))
        return all(device == own for device in listed) and not _keeps_lock(proc, held, own)

    def _lock(self, proc: int, pid: int, fd: int) -> int:
        """Return the number of the error that a lock meets; 0 if it is allowed."""
        try:
            device = os.stat(f"{pid}/fd/{fd}", dir_fd=proc).st_dev
            has_threads = len(rest.names(proc, f"{pid}/task")) > 1
        except OSError:
            return errno.EBADF
        if device != _own_device():
            return errno.ENOLCK
        most = MAX_LOCKS_OF_THREADS if has_threads or self.is_doubtful else MAX_LOCKS
        if self._locks >= most:
            self._count_locks(proc, most)
        if self._locks >= most:
            return errno.ENOLCK
        self._locks += 1
        self.is_doubtful = self.is_doubtful or has_threads
        return 0

    def _count_locks(self, proc: int, most: int) -> None:
        now = time.monotonic()
        if now >= self._next_count:
            self._locks = _locks(proc).count(b"\n")
            self._next_count = now + _COUNT_S if self._locks > most // 2 else now


def _keeps_lock(proc: int, held: "Sequence[Descriptor]", own: int) -> bool:
    """Return True if a descriptor holds a lock on a file of another device; the list leaves out those of the dead."""
    for each in held:
        kind = stat.S_IFMT(each.status.st_mode)
        if each.status.st_dev != own and kind not in (stat.S_IFSOCK, stat.S_IFIFO):
            with contextlib.suppress(OSError):
                if kind == 0 and os.readlink(each.path, dir_fd=proc) == _EVENTS:
                    continue  # all that it watches is described too, which can take a millisecond each
                if b"\nlock:" in rest.read(proc, each.description):
                    return True
    return False


def number_of_sockets(proc: int) -> int:
    """Return the number of sockets of the call, and of those that its PID 1 has."""
    found = _SOCKETS.match(rest.read(proc, "1/net/sockstat"))
    return int(found[1]) if found else MAX_SOCKETS


def _own_device() -> int:
    return os.stat("/tmp").st_dev


def _locks(proc: int) -> bytes:
    """Return the kernel's list of the locks that processes of the call hold or wait for."""
    return rest.whole(proc, "locks")
