"""Whether the processes of a paused session rest, seen by their PID 1 in a /proc that hides none of them."""

import contextlib
import functools
import os
import re
import signal
import time
from collections.abc import Callable, Iterator

from . import seccomp

MAX_STOPS = 500
"""Number of times that a session is stopped, more than a millisecond each, until it must rest."""
LETTING_GO = 20
"""Number of looks, a millisecond each, in which a freezer lets go of all threads."""
_STATE = b"\nState:\t"
_STOPPED = re.compile(rb"\nState:\tT(?:.*\n)+?ShdPnd:\t(\w+)\n")
"""Of a process that is stopped: the signals that wait for it."""
_LOADING = re.compile(rb"\nState:\t[^TtZX](?:.*\n)+?VmSize:\s*(\d+) kB\n(?:.*\n)+?VmExe:\s*0 kB\n")
"""Of a process in whose memory there is no program; it can bring that about itself, but then it can be stopped."""
_ARGUMENTS_KB = 8192
"""More than the arguments and the environment of a program take, which are all that is there before it."""
_STOP = 1 << (signal.SIGSTOP - 1)
_let_go_s: "list[float]" = []
"""When `stopped` has last let the processes go on, in seconds since the machine was started; empty before."""
_STILL, _WAITING = b"TtZXD", b"ZXD"
"""States of a thread that does not run: stopped, ended, or in the kernel until its child goes on."""
_BUSY = b"d"
"""Instead of the state of a thread that waits in the kernel for anything else, such as a disk, and stops afterwards."""
DISK_STOPS = 10
"""Number of times that those are waited for that wait themselves, instead of once."""


def stop(proc: int, is_over: "Callable[[], bool]") -> "dict[str, bytes]":
    """Stop every process, again and again: one that ends wakes the stopped orphans that it leaves.

    Args:
        proc: a descriptor of the folder.
        is_over: waits for a millisecond; returns True, at once, if they are to go on already.

    Returns:
        The threads at rest; none if they did not come to rest and were killed, or are to go on.
    """
    left = MAX_STOPS * DISK_STOPS  # no clock: this process may be frozen meanwhile
    while left > 0:
        signal_all(signal.SIGSTOP)
        threads = look(proc)
        if is_still(threads) and look(proc) == threads:
            return threads or {}
        if is_over():
            return {}
        left -= 1 if is_still(threads, _STILL + _BUSY) else DISK_STOPS
    signal_all(signal.SIGKILL)
    return {}


def held(proc: int, at_rest: "dict[str, bytes]") -> "dict[str, bytes]":
    """Return the threads if they have not moved; else kill them and return none."""
    for _ in range(LETTING_GO):
        if look(proc) == at_rest:
            return at_rest
        time.sleep(0.001)
    signal_all(signal.SIGKILL)
    return {}


@contextlib.contextmanager
def stopped(proc: int) -> "Iterator[None]":
    """Stop every process that is not, before anything else, and let these go on afterwards."""
    signal_all(signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in [pid for pid in processes(proc) if not _was_stopped_before(proc, pid)]:  # read before any goes on
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGCONT)
        _let_go_s[:] = [time.clock_gettime(time.CLOCK_BOOTTIME)]


def wake_newborn(proc: int) -> None:
    """Let those go on that were being forked while `stopped` let all others do so.

    The kernel stops them as they are born, which may be when the others have long gone on. None was begun later than
    that; and one that its parent has stopped before it ran looks like them.

    Args:
        proc: a descriptor of the folder.
    """
    for pid in processes(proc) if _let_go_s else ():
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has just ended
            if is_stopped(proc, int(pid)) and _is_in_fork(proc, pid) and _born_s(proc, pid) <= _let_go_s[0]:
                os.kill(int(pid), signal.SIGCONT)


def _born_s(proc: int, pid: str) -> float:
    """Return when a process was begun, in seconds since the machine was, to a hundredth and never too late."""
    return int(read(proc, f"{pid}/stat").rpartition(b")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")


def signal_all(number: int) -> None:
    """Send a signal to every process but this one."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, number)


def look(proc: int) -> "dict[str, bytes] | None":
    """Return the state of each thread with the number of its switches, which grows whenever it has run.

    Two looks that are equal, with all threads still, prove that there was a moment between them in which none could
    run: none ran from its first line to its second, and whoever was forked unseen by the first is in the second.

    Args:
        proc: a descriptor of the folder.

    Returns:
        The threads by their places in the folder; None if they cannot be read.
    """
    threads = {}
    try:
        for path in _tasks(proc):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                threads[path] = _state(proc, path)
    except (OSError, ValueError):
        return None
    return threads


def is_still(threads: "dict[str, bytes] | None", states: bytes = _STILL) -> bool:
    """Return True if none of the threads runs: all are in one of these states."""
    return threads is not None and all(state[:1] in states for state in threads.values())


def is_stopped(proc: int, pid: int) -> bool:
    """Return True if the process was stopped by a signal."""
    with contextlib.suppress(OSError, ValueError):
        text = read(proc, f"{pid}/status")
        return text[text.index(_STATE) + len(_STATE) :][:1] in b"Tt"
    return False


def _was_stopped_before(proc: int, pid: str) -> bool:
    """Return True if a process was stopped when it was to be: then the signal still waits.

    One that was being forked when all were let go on is born stopped, and no signal to its parent changes that. It has
    run nothing and seems to be in the call that made it: it was stopped by us, or by its parent before it ran, which
    cannot be told apart.
    """
    with contextlib.suppress(OSError):
        found = _STOPPED.search(read(proc, f"{pid}/status"))
        return found is not None and bool(int(found[1], 16) & _STOP) and not _is_in_fork(proc, pid)
    return False


def _is_in_fork(proc: int, path: str, otherwise: bool = False) -> bool:
    """Return True if a thread is in a call that makes a process: it has just been born, or waits for its child."""
    with contextlib.suppress(FileNotFoundError, PermissionError, IndexError):  # a kernel that does not tell
        return read(proc, f"{path}/syscall").split()[0] in _forks()
    return otherwise


@functools.cache
def _forks() -> "frozenset[bytes]":
    numbers = (seccomp.number_of(name) for name in ("clone", "fork", "vfork"))
    return frozenset(b"%d" % number for number in numbers if number >= 0)


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


def whole(proc: int, path: str) -> bytes:
    """Return the contents of a file of the folder, which the kernel gives a page at a time."""
    fd, chunks = os.open(path, os.O_RDONLY, dir_fd=proc), []
    try:
        while chunk := os.read(fd, 1 << 16):
            chunks.append(chunk)
    finally:
        os.close(fd)
    return b"".join(chunks)


def is_loading(status: bytes) -> bool:
    """Return True if by its `status` a process takes another program, and gives back the memory of the last one.

    It does so as fast as its own share of the processor lets it. Until then whoever reads its `stat`, `maps`,
    `smaps_rollup` or `syscall`, or compares it, waits for it, and can do nothing else.
    """
    found = _LOADING.search(status)
    return found is not None and int(found[1]) < _ARGUMENTS_KB


def _tasks(proc: int) -> "Iterator[str]":
    for pid in processes(proc):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield from (f"{pid}/task/{tid}" for tid in names(proc, f"{pid}/task"))


def folders(proc: int, pid: str) -> "Iterator[str]":
    """Return the folder of a process, and of its threads: one that has ended, also the first, tells nothing in its own.

    The first of them that tells something is the one to be read.
    """
    yield pid
    with contextlib.suppress(OSError):  # it has just ended
        yield from (f"{pid}/task/{tid}" for tid in names(proc, f"{pid}/task"))


def names(proc: int, path: str) -> "list[str]":
    """Return the names in a folder of the folder."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=proc)
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def _state(proc: int, path: str) -> bytes:
    """Return the state of a thread, and of one that is stopped or runs its switches.

    Who waits in the kernel for its child is only stirred when a freezer lets go of it.
    """
    text = read(proc, f"{path}/status")
    start = text.index(_STATE) + len(_STATE)
    state = text[start : start + 1]
    if state == b"D" and not _is_in_fork(proc, path, otherwise=True):
        return _BUSY
    return state if state in _WAITING else state + text[text.index(b"\nvoluntary_ctxt") :]
