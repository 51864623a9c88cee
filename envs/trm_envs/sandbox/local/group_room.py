"""Memory and processes that the control groups of this process, such as a container's, still leave it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trm_envs.sandbox.local.hierarchies import hierarchies

_FILES = {
    # limit, usage, and in memory.stat: the cache, given up before the limit is reached, and memory that is part of it
    "memory": {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache", "total_shmem"),
        2: ("memory.max", "memory.current", "file", "shmem"),
    },
    "pids": dict.fromkeys((1, 2), ("pids.max", "pids.current", "", "")),
}
_UNLIMITED = 1 << 60
"""Limit that version 1 has where none was set, or a little more."""


@dataclass(frozen=True)
class Left:
    """Memory or processes that one group leaves."""

    limit: Path
    """File with its limit."""
    number: int
    """Bytes or processes below the limit."""


def left(controller: str, mountinfo: str | None = None, cgroup: str | None = None) -> Left | None:
    """Find the group with the least left, of this process's own and those above it; None if none has a limit.

    Args:
        controller: "memory" or "pids".
        mountinfo: the text of /proc/self/mountinfo; None reads it.
        cgroup: the text of /proc/self/cgroup; None reads it.
    """
    found: list[Left] = []
    with contextlib.suppress(OSError):
        mountinfo = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
        cgroup = Path("/proc/self/cgroup").read_text() if cgroup is None else cgroup
        for each in hierarchies(mountinfo, cgroup):
            for folder in (each.own, *each.own.parents):
                if folder.is_relative_to(each.mount):
                    found += _of(folder, *_FILES[controller][each.version])
    return min(found, key=lambda each: each.number, default=None)


def _of(folder: Path, limit: str, usage: str, cached: str, kept: str) -> Iterator[Left]:
    with contextlib.suppress(OSError, ValueError, KeyError):  # another controller's, the root of version 2, or "max"
        most, used = int((folder / limit).read_text()), int((folder / usage).read_text())
        if cached:
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            used -= int(stat[cached]) - int(stat[kept])
        if most < _UNLIMITED:
            yield Left(folder / limit, max(0, most - used))
