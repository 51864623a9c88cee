"""How much the processes of a sandbox hold while something runs, and how long the one that watches it stood in line."""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.envs.sandbox_settings import Setting
from tests.envs.sandbox_support import MIB, descendants_of
from trm_envs.sandbox.guest.memory import FASTEST_GROWTH

FILLED = FASTEST_GROWTH * (os.cpu_count() or 1)
"""Bytes that can be filled in a second."""
TRIES = 3
LOOK_S = 0.005


class Growth:
    """The largest growth, while it is entered, of what the processes of a setting hold, without cached files.

    Args:
        setting: it has a memory group of version 1.
    """

    def __init__(self, setting: Setting) -> None:
        assert setting.memory is not None
        self._group, self._is_over = setting.memory, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._zygotes = _zygotes_of(setting.pid)
        self._waits: dict[int, tuple[float, float]] = {}
        """Of each supervisor: seconds for which it had waited for a processor at the first look and at the last one."""
        self._base = self._settled()
        self.most = 0
        self.gap_s = 0.0
        """Longest time between two looks."""

    @property
    def waited_s(self) -> float:
        """Longest time for which a supervisor waited, or who looks at it, who may have come too late to see it."""
        return max(self.gap_s - LOOK_S, *(last - first for first, last in self._waits.values()), 0.0)

    def __repr__(self) -> str:
        return f"{self.most / MIB:.1f} MiB; supervisor waited {self.waited_s * 1e3:.1f} ms"

    def __enter__(self) -> "Growth":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _look(self) -> None:
        looked = time.monotonic()
        while not self._is_over.wait(LOOK_S):
            self.most = max(self.most, self._held() - self._base)
            for zygote in self._zygotes:
                self._see_waits(zygote)
            now = time.monotonic()
            self.gap_s, looked = max(self.gap_s, now - looked), now

    def _see_waits(self, zygote: int) -> None:
        with contextlib.suppress(OSError):
            for pid in map(int, Path(f"/proc/{zygote}/task/{zygote}/children").read_text().split()):
                with contextlib.suppress(OSError):  # it has just ended
                    waited = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
                    self._waits[pid] = (self._waits.get(pid, (waited, 0.0))[0], waited)

    def _settled(self) -> int:
        """Return what is held once nothing is given back any more by what was killed before."""
        held, deadline = self._held(), time.monotonic() + 10
        while time.monotonic() < deadline:
            time.sleep(2 * LOOK_S)
            before, held = held, self._held()
            if held > before - MIB // 4:
                break
        return held

    def _held(self) -> int:
        lines = (self._group / "memory.stat").read_text().splitlines()
        stat = {name: int(value) for name, value in (line.split() for line in lines)}
        usage = int((self._group / "memory.usage_in_bytes").read_text())
        return usage - stat["total_cache"] + stat["total_shmem"]


def grown(setting: Setting, call: Callable[[], Any], most: int, is_watched: bool) -> tuple[Growth, Any]:
    """Return the growth in a call, with what it returns; in the last try if others do not count.

    What a supervisor watches may pass its limits while the supervisor waits for a processor. A try that passed them by
    no more than can be filled in that time does not count; a hole passes them in every one, or by more.

    Args:
        setting: the setting.
        call: makes the call.
        most: bytes that it may hold.
        is_watched: whether a supervisor holds it to that, and not the kernel.
    """
    for _ in range(TRIES):
        with Growth(setting) as growth:
            value = call()
        explained = growth.waited_s * FILLED if is_watched else 0.0
        if not most <= growth.most < most + explained:
            break
    return growth, value


def _zygotes_of(setting_pid: int) -> set[int]:
    found = set()
    for pid in descendants_of(setting_pid):
        with contextlib.suppress(OSError):  # it has just ended
            if _is_supervisor(pid):
                found.add(_parent(pid))
    return found


def _is_supervisor(pid: int) -> bool:
    """Return True if a process is the first one of a PID namespace within that of its zygote."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            numbers = line.split()[1:]
            return len(numbers) > 2 and numbers[-1] == "1"
    return False


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
