"""The memory of this machine beside its GPUs."""

from __future__ import annotations

from pathlib import Path

from trm_agent.runs.planning.machine import GIB


def free_memory_gib(meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> float:
    """Return the free memory of the machine, or of this process's control group if that is less."""
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    free = int(lines["MemAvailable"].split()[0]) * 1024
    try:
        most, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free / GIB
    return (min(free, int(most) - int(used)) if most.isdigit() else free) / GIB
