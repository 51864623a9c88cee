"""Descriptors that lead into a sandbox: those that no forked child may keep, and files in memory for inside."""

import fcntl
import os
import weakref
from typing import Any

_NEVER_WRITTEN = 1 | 2 | 4 | 8  # F_SEAL_SEAL, SHRINK, GROW, WRITE; not every build of Python names them

known: "weakref.WeakSet[Any]" = weakref.WeakSet()
"""Holders of connections into a sandbox. A child forked off this process must not keep these alive."""


def _forget_all() -> None:
    for each in list(known):
        each.forget()


os.register_at_fork(after_in_child=_forget_all)


def pipe_for(uid: int) -> "tuple[int, int]":
    """Return the ends of a pipe; the user may open that for writing anew, as /dev/stdout, also if root makes it."""
    ours, theirs = os.pipe()
    if os.geteuid() == 0:
        os.fchown(theirs, uid, uid)
    return ours, theirs


def in_memory(data: bytes) -> int:
    """Return the descriptor of a file in memory that holds `data` and can never be written again."""
    fd = os.memfd_create("data", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(fd, 0, os.SEEK_SET)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _NEVER_WRITTEN)  # else it is memory that no limit counts
    except OSError:
        os.close(fd)
        raise
    return fd
