"""Memory of a call's processes, seen by their PID 1 in a /proc that hides none of them."""

import contextlib

from . import rest

_PAGE = 4096


def of_all(proc: int, limit: int) -> int:
    """Bytes of memory without a file of all processes of the call: resident ones, and if over `limit`, exact shares."""
    sizes = {pid: _resident(proc, pid) for pid in rest.processes(proc)}
    if sum(sizes.values()) <= limit:
        return sum(sizes.values())
    return sum(min(size, _share(proc, pid, size)) for pid, size in sizes.items())


def _resident(proc: int, pid: str) -> int:
    """Return the resident bytes of a process, also if the thread with which it began has ended."""
    with contextlib.suppress(OSError, ValueError):
        found = _of(proc, f"{pid}/statm")
        if found is None:
            tasks = (_of(proc, f"{pid}/task/{tid}/statm") for tid in rest.names(proc, f"{pid}/task"))
            found = next((size for size in tasks if size is not None), None)
        return found or 0
    return 0


def _of(proc: int, path: str) -> "int | None":
    total, resident, shared = map(int, rest.read(proc, path).split()[:3])
    return (resident - shared) * _PAGE if total else None


def _share(proc: int, pid: str, otherwise: int) -> int:
    """Return the process's part of its pages, each of which it shares with some others; a hidden one shares none."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = rest.read(proc, f"{pid}/smaps_rollup").splitlines()
        line = next(line for sign in (b"Pss_Anon:", b"Pss:") for line in lines if line.startswith(sign))
        return int(line.split()[1]) * 1024
    return otherwise
