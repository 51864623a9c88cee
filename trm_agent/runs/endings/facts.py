"""Facts about the machine and the run that the end of a run is explained with."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from trm_agent.runs.planning.hub import HUB

GIB = 2**30
_VMSTAT = Path("/proc/vmstat")
_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Facts:
    """What the templates of the rules may name."""

    folder: str
    """Folder of the run."""
    space: str
    """Room on its disk: `4.2 GiB needed for a checkpoint, 0.1 GiB free`."""
    memory: str
    """Memory of the machine: `the machine has 23.4 GiB of memory`."""
    num_oom_kills: int
    """Processes that the kernel has killed for memory since the run's start, on the whole machine."""
    model: str
    """Folder of the model, or its hub id."""
    hub: str = HUB
    """Address of the hub."""


def gather(folder: Path, model: str, checkpoint_bytes: int | None, oom_kills_before: int) -> Facts:
    """Gather the facts now.

    Args:
        folder: the folder of the run.
        model: the folder of the model, or its hub id.
        checkpoint_bytes: bytes of a checkpoint; None if they are not known.
        oom_kills_before: `oom_kills()` when the run began.
    """
    return Facts(
        folder=str(folder),
        space=space(folder, checkpoint_bytes),
        memory=memory(),
        num_oom_kills=max(0, oom_kills() - oom_kills_before),
        model=model,
        hub=os.environ.get("HF_ENDPOINT", HUB),
    )


def space(folder: Path, checkpoint_bytes: int | None) -> str:
    """Describe the room on a folder's disk beside that of a checkpoint."""
    try:
        free = f"{gib(shutil.disk_usage(folder).free)} free"
    except OSError as error:
        free = f"free room unknown ({error.strerror})"
    return free if checkpoint_bytes is None else f"{gib(checkpoint_bytes)} needed for a checkpoint, {free}"


def gib(count: float) -> str:
    """Format bytes: GiB, or MiB below a tenth of one."""
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"


def memory(meminfo: Path = _MEMINFO) -> str:
    """Describe the memory of the machine."""
    found = _numbers(meminfo)
    total = f"{gib(1024 * found['MemTotal:'])} of memory" if "MemTotal:" in found else "memory of unknown size"
    return f"the machine has {total}"


def oom_kills(vmstat: Path = _VMSTAT) -> int:
    """Return the number of processes that the kernel has killed for memory since it started; 0 if it is not told."""
    return _numbers(vmstat).get("oom_kill", 0)


def _numbers(file: Path) -> dict[str, int]:
    """Return the numbers of a file of the kernel by the name before them."""
    try:
        words = [line.split() for line in file.read_text(encoding="ascii", errors="replace").splitlines()]
    except OSError:
        return {}
    return {word[0]: int(word[1]) for word in words if len(word) > 1 and word[1].isdigit()}
