"""Peak memory of the whole process tree of the default run; the claim is at most 8 GiB.

python -m benchmarks.peak_memory

Counted is the proportional set size: a page that n processes share counts 1/n in each, so that forks are counted once.
"""

import subprocess

import psutil

from benchmarks.common import train

LIMIT_GIB = 8.0


def tree_gib(process: subprocess.Popen) -> float:
    """Proportional set size of a process and all its descendants, GiB."""
    try:
        root = psutil.Process(process.pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    total = 0
    for member in family:
        try:
            total += member.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return total / 2**30


def main() -> None:
    peak = 0.0

    def watch(process: subprocess.Popen) -> None:
        nonlocal peak
        peak = max(peak, tree_gib(process))

    train("trainer.total_training_steps=5", "trainer.test_freq=5", watch=watch)
    print(f"peak {peak:.2f} GiB, {peak / LIMIT_GIB:.2f} times the limit of {LIMIT_GIB:.0f} GiB")


if __name__ == "__main__":
    main()
