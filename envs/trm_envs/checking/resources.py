"""The check that an environment releases its resources: descriptors, processes, threads."""

import contextlib
import gc
import os
import threading
from pathlib import Path

from trm_envs.checking.subject import Failed, Subject, episode

WARM_ROUNDS = 3
ROUNDS = 10
TURNS_A_ROUND = 8


def held_now() -> dict[str, int]:
    """Count this process's descriptors, child processes and threads; 0 for a count that the system does not provide."""
    gc.collect()
    held = {"threads": threading.active_count(), "file descriptors": 0, "child processes": 0}
    with contextlib.suppress(OSError):
        held["file descriptors"] = len(os.listdir("/proc/self/fd"))
    with contextlib.suppress(OSError):
        tasks = list(Path("/proc/self/task").iterdir())
        held["threads"] = len(tasks)
        held["child processes"] = sum(len(_children(task)) for task in tasks)
    return held


def close_releases_everything(subject: Subject) -> None:
    """Check that making, playing and closing environments repeatedly leaks nothing.

    Resources that are shared on purpose, such as a sandbox, may start in the first rounds: only continued growth
    counts.
    """
    _rounds(subject, WARM_ROUNDS)
    counts = [held_now()]
    for _ in range(2):
        _rounds(subject, ROUNDS)
        counts.append(held_now())
        grown = [name for name in counts[0] if counts[-1][name] > counts[-2][name]]
        if not grown:
            return
    told = ", ".join(f"{name}: {' -> '.join(str(count[name]) for count in counts)}" for name in grown)
    raise Failed(f"held after each {ROUNDS} rounds of make, reset, step, close: {told}; release them in close()")


def _rounds(subject: Subject, number: int) -> None:
    for round_number in range(number):
        with subject.open() as env:
            for _, _ in zip(range(TURNS_A_ROUND), episode(env, subject.seed + round_number), strict=False):
                pass


def _children(task: Path) -> list[str]:
    try:
        return (task / "children").read_text().split()
    except OSError:
        return []
