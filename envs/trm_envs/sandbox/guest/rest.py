"""Whether the processes of a paused session rest, seen by their PID 1 in a /proc that hides none of them."""

import contextlib
import os

_STILL = b"TtZXD"
"""States of a thread that does not run: stopped, ended, or in the kernel until another one of the call goes on."""


def look(proc: int) -> "dict[str, bytes] | None":
    """Return the state of each thread with the number of its switches, which grows whenever it has run.

    Two looks that are equal, with all threads still, prove that there was a moment between them in which none could
    run: none ran from its first line to its second, and whoever was forked unseen by the first is in the second.

    Args:
        proc: a descriptor of the folder.

    Returns:
        The threads by number; None if they cannot be read.
    """
    threads = {}
    try:
        for pid in processes(proc):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for tid in names(proc, f"{pid}/task"):
                    threads[tid] = _state(proc, f"{pid}/task/{tid}/status")
    except OSError:
        return None
    return threads


def is_still(threads: "dict[str, bytes] | None") -> bool:
    """Return True if none of the threads runs."""
    return threads is not None and all(state[:1] in _STILL for state in threads.values())


def is_stopped(proc: int, pid: int) -> bool:
    """Return True if the process was stopped by a signal."""
    with contextlib.suppress(OSError):
        return _state(proc, f"{pid}/status")[:1] in b"Tt"
    return False


def processes(proc: int) -> "list[str]":
    """Return the numbers of all processes but PID 1."""
    return [name for name in os.listdir(proc) if name.isdigit() and name != "1"]


def read(proc: int, path: str) -> bytes:
    """Return the contents of a file of the folder, as far as one reading gives them."""
    fd = os.open(path, os.O_RDONLY, dir_fd=proc)
    try:
        return os.read(fd, 1 << 14)
    finally:
        os.close(fd)


def names(proc: int, path: str) -> "list[str]":
    """Return the names in a folder of the folder."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=proc)
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def _state(proc: int, path: str) -> bytes:
    text = read(proc, path)
    state = text.index(b"\nState:\t") + 8
    return text[state : state + 1] + text[text.index(b"\nvoluntary_ctxt") :]
