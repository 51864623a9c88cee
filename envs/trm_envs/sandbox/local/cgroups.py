"""Control groups around supervisors: what a supervisor and its programs use together is counted and limited there.

    group of this process / trm-sandbox-... (one for each host process) / 1, 2, ... (one for each supervisor)

The groups are made and written by the host; inside, a program can read the name of its own and no more.
"""

import atexit
import contextlib
import itertools
import os
import re
import signal
import threading
import time
from pathlib import Path

from trm_envs.sandbox.local.group import Group, read, removed, thaw, write
from trm_envs.sandbox.local.hierarchies import CONTROLLERS, Place, find_places
from trm_envs.sandbox.local.keeper import Keeper

REMOVAL_S = 2.0
"""Longest wait for the kernel to let a group go whose processes were killed."""
_NAME = re.compile(r"trm-sandbox-(\d+)-(\d+)-(\d+)")


class Groups:
    """The groups of one host process; none if it may make none.

    Args:
        places: where groups can be made, by controller.
        missing: the reason for each controller that has no place.
    """

    def __init__(self, places: dict[str, Place], missing: dict[str, str]) -> None:
        self.missing = dict(missing)
        self.places: dict[str, Place] = {}
        self._owner = os.getpid()
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self._ended: list[Group] = []
        name = f"trm-sandbox-{_namespace()}-{self._owner}-{_start_time(self._owner)}"
        for controller, place in places.items():
            try:
                remove_leftovers(place.folder)
                own = Place(controller, place.version, place.folder / name)
                _parent(own)
                if (controller, place.version) == ("freezer", 1):
                    atexit.register(Keeper(own.folder).close)
                self.places[controller] = own
            except OSError as error:
                self.missing[controller] = f"{place.folder}: {error.strerror or error}"

    @property
    def hold_shares(self) -> bool:
        """Whether they hold each call's share of the processor and its pauses."""
        return {"cpu", "freezer"} <= self.places.keys()

    def new(self) -> Group:
        """Make a group; without any controller it is a name for nothing.

        Raises:
            OSError: if it cannot be made.
        """
        self.sweep()
        with self._lock:
            for place in self.places.values():
                if not place.folder.exists():  # another sandbox of this process was closed
                    _parent(place)
            return Group(self.places, str(next(self._numbers)))

    def discard(self, group: Group) -> None:
        """Remove a group whose supervisor was hung up on, as soon as its processes are gone."""
        if self._owner == os.getpid():
            group.thaw()
            with self._lock:
                self._ended.append(group)

    def sweep(self, patience_s: float = 0.0) -> None:
        """Remove the groups of supervisors that have ended."""
        deadline = time.monotonic() + patience_s
        while True:
            with self._lock:
                self._ended = [group for group in self._ended if not group.remove()]
                if not self._ended or time.monotonic() >= deadline:
                    break
            time.sleep(0.005)

    def close(self) -> None:
        """Remove what can be removed; groups that are in use stay."""
        if self._owner == os.getpid():
            self.sweep(REMOVAL_S)
            with self._lock:
                for folder in {place.folder for place in self.places.values()}:
                    removed(str(folder))


_of_processes: dict[int, Groups] = {}
_lock = threading.Lock()


def _start_afresh() -> None:
    """In a forked child: leave the parent's groups, and a lock that may be held, alone."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_start_afresh)


def no_groups() -> Groups:
    """Return groups without any controller."""
    return Groups({}, dict.fromkeys(CONTROLLERS, 'turned off by cgroups="off"'))


def groups_of_this_process() -> Groups:
    """Return this process's groups, which all of its sandboxes share; a child that was forked off has its own."""
    with _lock:
        if os.getpid() not in _of_processes:
            _of_processes[os.getpid()] = Groups(*find_places())
        return _of_processes[os.getpid()]


def remove_leftovers(folder: Path) -> None:
    """Remove the groups of host processes that were killed; those of other PID namespaces cannot be told, and stay."""
    for path in folder.glob("trm-sandbox-*-*-*"):
        found = _NAME.fullmatch(path.name)
        if found is None or found[1] != _namespace() or _start_time(int(found[2])) == found[3]:
            continue
        beneath: list[Path] = []
        with contextlib.suppress(FileNotFoundError):  # another host process that starts now removes it too
            beneath += path.iterdir()
        for inner in [*beneath, path]:
            if inner.is_dir():
                with contextlib.suppress(OSError):
                    _kill(str(inner))
                deadline = time.monotonic() + REMOVAL_S
                while not removed(str(inner)) and time.monotonic() < deadline:
                    time.sleep(0.005)


def _kill(folder: str) -> None:
    """Kill the processes of a group, frozen or not."""
    for pid in read(f"{folder}/cgroup.procs").split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    thaw(folder)


def _parent(place: Place) -> None:
    """Make the group of this host process; its programs together weigh as much as one process for each processor."""
    folder = place.folder
    folder.mkdir(exist_ok=True)
    if place.version == 2 and place.controller != "freezer":
        write(f"{folder}/cgroup.subtree_control", f"+{place.controller}")
    if place.controller == "cpu":
        per_processor, most, file = (1024, 1 << 18, "cpu.shares") if place.version == 1 else (100, 10_000, "cpu.weight")
        write(f"{folder}/{file}", min(most, per_processor * (os.cpu_count() or 1)))


def _namespace() -> str:
    """Return the number of this PID namespace."""
    return "".join(filter(str.isdigit, os.readlink("/proc/self/ns/pid")))


def _start_time(pid: int) -> str:
    """Return when a process started, in the kernel's ticks; "" if there is none, or one that has ended."""
    fields = read(f"/proc/{pid}/stat", missing="").rpartition(") ")[2].split(" ")
    return "" if fields[0] in ("", "Z", "X") else fields[19]
