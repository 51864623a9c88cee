"""What the sandbox's tests share: the skip, and limits tight enough to be quick."""

import contextlib
import os
import shutil
import sys
from pathlib import Path

import pytest

from trm_envs.sandbox import Limits

needs_bubblewrap = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("bwrap") is None,
    reason="the local sandbox needs Linux and bubblewrap (apt-get install bubblewrap)",
)

MIB = 1 << 20
TIGHT = Limits(
    wall_s=0.6,
    cpu_s=5,
    memory_bytes=128 * MIB,
    processes=12,
    output_bytes=2 * MIB,
    file_bytes=4 * MIB,
    disk_bytes=8 * MIB,
    num_files=200,
)


def descendants_of(pid: int) -> list[int]:
    """The processes that come from a process, as they are now."""
    parents = {}
    for child in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        with contextlib.suppress(OSError):
            parents[child] = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
    found, frontier = [], [pid]
    while frontier:
        frontier = [child for child, parent in parents.items() if parent in frontier]
        found += frontier
    return found
