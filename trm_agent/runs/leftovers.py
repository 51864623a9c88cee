"""Leftovers of a killed run outside its folder."""

import contextlib
import time
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
WEIGHTS_PATTERN = "verl_weights_*"
SOCKETS = Path("/tmp")
SOCKETS_PATTERN = "rl-colocate-zmq-*-*-replica-*-rank-*.sock"
"""The sockets of runs of ours: Ray's job and the address of its head stand in front of verl's replica."""
SOCKETS_AGE_S = 3600.0


def remove_stale_weights(directory: Path = SHARED_MEMORY, processes: Path = Path("/proc")) -> list[str]:
    """Remove verl's weight buffers in shared memory that no living process has mapped.

    Returns:
        The names of the removed files.
    """
    candidates = {str(path): path for path in directory.glob(WEIGHTS_PATTERN)}
    if not candidates:
        return []
    for maps in processes.glob("[0-9]*/maps"):
        try:
            text = maps.read_text(errors="replace")
        except OSError:  # another user's process, or one that has just ended
            continue
        for name in [name for name in candidates if name in text]:
            del candidates[name]
    for path in candidates.values():
        path.unlink(missing_ok=True)
    return sorted(path.name for path in candidates.values())


def remove_stale_sockets(directory: Path = SOCKETS, bound: Path = Path("/proc/net/unix")) -> list[str]:
    """Remove the sockets of weights that no living process is bound to, and that are older than an hour.

    A run has one while it hands weights over. The next one has another name, so that nobody would ever reuse it. The
    table of bound sockets knows those of this network namespace alone: the hour is for a run in another one.

    Args:
        directory: of the sockets.
        bound: the kernel's table of bound sockets; where there is none, nothing is removed.

    Returns:
        The names of the removed files.
    """
    candidates = [path for path in directory.glob(SOCKETS_PATTERN) if path.is_socket()]
    try:
        # after the files, so that one that was bound in between is not among them
        in_use = {line.rpartition(" ")[2] for line in bound.read_text(errors="replace").splitlines()}
    except OSError:
        return []
    removed = []
    for path in candidates:
        # another user's stays
        with contextlib.suppress(OSError):
            if str(path) not in in_use and time.time() - path.stat().st_mtime > SOCKETS_AGE_S:
                path.unlink()
                removed.append(path.name)
    return sorted(removed)
