"""Peak memory of the process tree of a run of two steps, by process; the claim is at most 8 GiB.

python -m benchmarks.peak_memory [HYDRA OVERRIDES]

Counted is the proportional set size: a page that n processes share counts 1/n in each, so that forks are counted once.
`own` is memory that a process has written and shares with no other; `loads` lists the large packages whose libraries
it has mapped.
"""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.common import train

LIMIT_GIB = 8.0
MIB = 2**20
PACKAGES = ("torch", "vllm", "triton", "pyarrow", "ray", "pandas", "scipy", "sklearn", "matplotlib", "cv2", "numba")
TWO_STEPS = (
    "trainer.total_training_steps=2",
    "trainer.test_freq=-1",
    "trainer.save_freq=-1",
    "trainer.val_before_train=false",
)


@dataclass(frozen=True)
class Member:
    """A process of the tree."""

    command: str
    """The beginning of its command line, or the title that Ray gave it."""
    pss: int
    """Proportional set size, bytes."""
    own: int
    """Private dirty pages, bytes."""
    cpu_s: float
    """Processor seconds so far."""
    loads: tuple[str, ...]
    """Large packages whose libraries it has mapped."""


def members(process: subprocess.Popen) -> list[Member]:
    """Look at a process and all its descendants; those that end meanwhile are left out."""
    try:
        root = psutil.Process(process.pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    found = []
    for each in family:
        try:
            times = each.cpu_times()
            command = " ".join(each.cmdline()) or each.name()
            pss, own = _rollup(each.pid)
            found.append(Member(command, pss, own, times.user + times.system, _loads(each.pid)))
        except (psutil.NoSuchProcess, psutil.ZombieProcess, OSError):
            continue
    return found


def _rollup(pid: int) -> tuple[int, int]:
    """Return the proportional set size and the private dirty pages of a process, bytes."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    sizes = {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+): +(\d+) kB", text, re.M)}
    return sizes.get("Pss", 0), sizes.get("Private_Dirty", 0)


def _loads(pid: int) -> tuple[str, ...]:
    mapped = set(re.findall(r"/site-packages/(\w+)/", Path(f"/proc/{pid}/maps").read_text()))
    return tuple(name for name in PACKAGES if name in mapped)


def _short(command: str) -> str:
    """Return the last part of a program's path, without its options."""
    words = [word for word in command.split() if not word.startswith("-")]
    return " ".join(word.rpartition("/")[2] for word in words[:2])[:48]


def main() -> None:
    peak: list[Member] = []

    def watch(process: subprocess.Popen) -> None:
        nonlocal peak
        now = members(process)
        if sum(each.pss for each in now) > sum(each.pss for each in peak):
            peak = now

    train(*TWO_STEPS, *sys.argv[1:], watch=watch)
    print(f"{'process':<50}{'PSS MiB':>8}{'own MiB':>8}{'CPU s':>7}  loads")
    for each in sorted(peak, key=lambda member: -member.pss):
        sizes = f"{each.pss / MIB:>8.0f}{each.own / MIB:>8.0f}{each.cpu_s:>7.1f}"
        print(f"{_short(each.command):<50}{sizes}  {' '.join(each.loads)}")
    gib = sum(each.pss for each in peak) / 2**30
    print(f"peak {gib:.2f} GiB in {len(peak)} processes, {gib / LIMIT_GIB:.2f} times the limit of {LIMIT_GIB:.0f} GiB")


if __name__ == "__main__":
    main()
