"""Runs a command, and measures the memory of all its processes, those that left their parent included."""

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SET_CHILD_SUBREAPER = 36
INTERVAL_S = 2.0


@dataclass(frozen=True)
class Watched:
    """A command that has ended well."""

    started: float
    """Seconds since the epoch."""
    peak_pss_gib: float
    """Largest sum of the proportional set sizes: a page that n processes share counts 1/n in each."""
    processes: int
    """Most processes at once."""
    others: float
    """Processors that were not this command's but busy, on average: 0 on an idle machine."""
    pauses: tuple[tuple[float, float], ...] = ()
    """When it was stopped, and when it went on, seconds since the epoch."""


def run_watched(command: Sequence[str], environment: Mapping[str, str], log: Path, timeout_s: float) -> Watched:
    """Run a command to its end.

    Raises:
        TimeoutError: it took longer.
        RuntimeError: it failed; the message ends with the last lines of its log.
    """
    adopt_orphans()
    peak, most, strangers = 0.0, 0, set(descendants())
    busy, own, used = busy_seconds(), own_seconds(), dict[int, float]()
    with log.open("wb") as file:
        started = time.time()
        process = subprocess.Popen(command, env=dict(environment), stdout=file, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                if time.time() - started > timeout_s:
                    raise TimeoutError(f"{' '.join(command)}: more than {timeout_s:.0f} s; see {log}")
                family = [pid for pid in descendants() if pid not in strangers]
                peak, most = max(peak, sum(map(pss_gib, family))), max(most, len(family))
                used |= {pid: max(used.get(pid, 0.0), seconds_of(pid)) for pid in family}
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(INTERVAL_S)
        finally:
            end_all(strangers)
    took = time.time() - started
    # the first leaves out what its parent never waited for, the second what was used since the last look
    mine = max(own_seconds() - own, sum(used.values()))
    others = max(0.0, busy_seconds() - busy - mine) / took
    if process.returncode:
        raise failure(command, process.returncode, log)
    return Watched(started, peak, most, others)


def failure(command: Sequence[str], code: int, log: Path) -> RuntimeError:
    """Return the error of a command that failed, with the last lines of its log."""
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])
    return RuntimeError(f"{' '.join(command)} ended with {code}; {log}:\n{tail}")


def busy_seconds() -> float:
    """Return the seconds for which this machine's processors were busy, or taken by its host, since it started."""
    return parse_busy_ticks(Path("/proc/stat").read_text()) / os.sysconf("SC_CLK_TCK")


def parse_busy_ticks(text: str) -> int:
    """Return the ticks of /proc/stat but those of idling and of waiting for a disk."""
    user, nice, system, _, _, irq, softirq, steal = map(int, text.split()[1:9])
    return user + nice + system + irq + softirq + steal


def own_seconds() -> float:
    """Return the processor seconds of this process and of those below it that have ended and were waited for."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def seconds_of(pid: int) -> float:
    """Return the processor seconds of a process; 0 for one that has ended."""
    try:
        return parse_ticks(Path(f"/proc/{pid}/stat").read_text(errors="replace")) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return 0.0


def parse_ticks(text: str) -> int:
    """Return the ticks in user and in system mode of /proc/PID/stat, whose name may hold spaces and brackets."""
    user, system = text.rpartition(")")[2].split()[11:13]
    return int(user) + int(system)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose parent ends, so that none leaves the tree."""
    ctypes.CDLL(None, use_errno=True).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants() -> list[int]:
    """Return the processes below this one."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (parent := parent_of(folder)) is not None:
            children.setdefault(parent, []).append(int(folder.name))
    found, front = [], [os.getpid()]
    while front:
        front = [child for pid in front for child in children.get(pid, [])]
        found += front
    return found


def parent_of(folder: Path) -> int | None:
    """Return the parent of a process; None for one that has ended."""
    try:
        # the name may hold spaces and brackets, and ends with the last bracket
        state, parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
    except (OSError, ValueError):
        return None
    return None if state == "Z" else int(parent)


def pss_gib(pid: int) -> float:
    """Return the proportional set size of a process; 0 for one that has ended."""
    try:
        return parse_pss_kib(Path(f"/proc/{pid}/smaps_rollup").read_text()) / 2**20
    except OSError:
        return 0.0


def parse_pss_kib(text: str) -> int:
    """Return the line `Pss:` of smaps_rollup, KiB; 0 without one."""
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name == "Pss":
            return int(rest.split()[0])
    return 0


def end_all(strangers: set[int], patience_s: float = 10.0) -> None:
    """End the processes of a command that are left, and reap those that were adopted."""
    deadline = time.time() + patience_s
    for number in (signal.SIGTERM, signal.SIGKILL):
        while left := [pid for pid in descendants() if pid not in strangers]:
            for pid in left:
                _send(pid, number)
            time.sleep(0.2)
            _reap()
            if time.time() > deadline:
                break
        deadline += patience_s
    _reap()


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
