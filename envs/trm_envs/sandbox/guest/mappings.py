"""Mappings of a call's processes: each is memory of the kernel's, and more the more ancestors a process has.

One process has at most 65,530. To count them takes a microsecond each, so that is done where there are several alone.
"""

import contextlib
import ctypes
import os
from collections.abc import Iterator, Sequence

from . import rest, seccomp

MAX_MAPPINGS = 16_384
"""Largest number of mappings of all processes of a call together, where there are several."""
_TEXT = 128  # bytes for each in the kernel's list of them
MAX_TEXT = _TEXT * MAX_MAPPINGS
"""Largest number of bytes of that list: names of files in it may be long, and take long to write."""
FEW = 2000
"""Number of mappings that are counted while the processes run."""
_KCMP_VM = 1
_SYSCALL = ctypes.CDLL(None).syscall  # looked up once, in the zygote
_SYSCALL.restype = ctypes.c_long
_SYSCALL.argtypes = [ctypes.c_long] * 6


def are_too_many(proc: int, pids: "Sequence[str]", stops: bool) -> bool:
    """Return True if these processes have more mappings together than a call may have.

    Args:
        proc: a /proc that hides nothing.
        pids: the processes.
        stops: whether they run, and nothing else holds them to their memory: many are counted while they are stopped.
    """
    if len(pids) < 2 or not _are_more(proc, pids, FEW):
        return False
    with rest.stopped(proc) if stops else contextlib.nullcontext():
        own = [pid for pid in pids if not _is_in_its_parents_memory(proc, pid)]
        return len(own) > 1 and _are_more(proc, own, MAX_MAPPINGS)


def _are_more(proc: int, pids: "Sequence[str]", most: int) -> bool:
    number = length = 0
    for lines in _lists(proc, pids):
        number += lines.count(b"\n")
        length += len(lines)
        if number > most or length > _TEXT * most:
            return True
    return False


def _lists(proc: int, pids: "Sequence[str]") -> "Iterator[bytes]":
    """Return the lists of their mappings, some 40 at a time, as the kernel gives them."""
    for pid in pids:
        for folder in () if _is_loading(proc, pid) else rest.folders(proc, pid):
            is_told = False
            for lines in _pieces(proc, f"{folder}/maps"):
                is_told = True
                yield lines
            if is_told:
                break


def _pieces(proc: int, path: str) -> "Iterator[bytes]":
    with contextlib.suppress(OSError):  # it has just ended
        fd = os.open(path, os.O_RDONLY, dir_fd=proc)
        try:
            while lines := os.read(fd, 1 << 16):
                yield lines
        finally:
            os.close(fd)


def _is_loading(proc: int, pid: str) -> bool:
    with contextlib.suppress(OSError):  # it has just ended
        return rest.is_loading(rest.read(proc, f"{pid}/status"))
    return False


def _is_in_its_parents_memory(proc: int, pid: str) -> bool:
    """Return True if a process shares all its memory with its parent, as between `vfork` and `execve`."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        parent = int(rest.read(proc, f"{pid}/stat").rpartition(b") ")[2].split()[1])
        return bool(_SYSCALL(seccomp.number_of("kcmp"), parent, int(pid), _KCMP_VM, 0, 0) == 0)
    return False  # a kernel that does not compare
