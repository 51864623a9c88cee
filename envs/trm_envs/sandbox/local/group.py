"""The control group of one supervisor and of its programs: its limits, its freezer, and what is charged to it."""

import contextlib
import errno
import os
import time
from collections.abc import Iterable

from trm_envs.sandbox.interface import Limits
from trm_envs.sandbox.local.hierarchies import Place

OVERHEAD_BYTES = 16 << 20
"""Memory of a group beyond a call's limits, for the supervisor and the kernel's bookkeeping."""
OVERHEAD_PROCESSES = 4
"""Processes of a group beyond a call's limit: supervisor, clerk, and those that end."""
KEPT_BYTES = 32 << 20
"""Most that may stay charged to a group between two calls."""
MOST_GIVEN_UP = 4 << 20
"""Largest cache of files that is given up as its group is removed; a larger one is worth more than the group."""
CLERK_FACTOR = 6
"""Memory that the clerk takes at most, as a multiple of the bytes of files that it writes or reads."""
SOCKET_BYTES = 16 << 20
"""Memory of TCP sockets, which version 1 counts apart."""
FREEZE_S = 2.0
"""Longest wait for a group to be frozen."""
_MEMORY_FILES = {
    # limit, limit with swap, usage, number of processes that were killed
    1: ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control"),
    2: ("memory.max", "memory.swap.max", "memory.current", "memory.events"),
}


class Group:
    """The group of one supervisor and of its programs: a folder in each hierarchy.

    Args:
        places: the folders of the host process by controller.
        name: the group's name.

    Raises:
        OSError: if it cannot be made.
    """

    def __init__(self, places: dict[str, Place], name: str) -> None:
        self._versions = {controller: place.version for controller, place in places.items()}
        self._paths = {controller: f"{place.folder}/{name}" for controller, place in places.items()}
        self._folders = list(dict.fromkeys(self._paths.values()))
        self._written: dict[str, int] = {}
        self._total = 0
        self._num_killed = 0
        self._is_frozen = False
        for folder in self._folders:
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder)
        if "memory" in self._paths:
            self._has_swap = os.path.exists(f"{self._paths['memory']}/{self._memory_file(1)}")
            with contextlib.suppress(OSError):
                write(f"{self._paths['memory']}/memory.kmem.tcp.limit_in_bytes", SOCKET_BYTES)

    def has(self, *controllers: str) -> bool:
        """Return True if these controllers hold its processes."""
        return all(controller in self._paths for controller in controllers)

    def admit(self, pids: Iterable[int]) -> None:
        """Move processes into the group; what they start afterwards is born there.

        Raises:
            OSError: if one has ended, or may not be moved.
        """
        for pid in pids:
            for folder in self._folders:
                write(f"{folder}/cgroup.procs", pid)

    def limit(self, limits: Limits, disk_bytes: int) -> bool:
        """Set the limits of a call; return False if the group holds more memory than that already.

        Args:
            limits: the call's limits.
            disk_bytes: bytes of its files, which are memory and count too.

        Raises:
            OSError: if they cannot be written.
        """
        if "pids" in self._paths:
            self._set("pids", "pids.max", limits.processes + OVERHEAD_PROCESSES)
        if "memory" not in self._paths:
            return True
        self._total = limits.memory_bytes + disk_bytes + OVERHEAD_BYTES
        return self._limit_memory(self._total)

    def widen(self, file_bytes: int) -> None:
        """Let the group hold the clerk too, which handles so many bytes of files while nothing of the program runs."""
        if "memory" in self._paths:
            self._limit_memory(self._total + CLERK_FACTOR * file_bytes)

    def narrow(self) -> bool:
        """Set the call's limit again; return False if the group, without the clerk, holds more than that."""
        return "memory" not in self._paths or self._limit_memory(self._total)

    def was_exceeded(self) -> bool:
        """Return True if the kernel has killed a process at the memory limit since this was asked last."""
        if "memory" not in self._paths:
            return False
        text = read(f"{self._paths['memory']}/{self._memory_file(3)}")
        number = next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), 0)
        before, self._num_killed = self._num_killed, number
        return number > before

    def is_clean(self) -> bool:
        """Return True if little is charged to the group between two calls, but for files of the host's in the cache.

        The kernel gives that cache up before a limit is reached.
        """
        if "memory" not in self._paths:
            return True
        with contextlib.suppress(OSError):
            self.was_exceeded()  # what the kernel killed so far is of the call that is over
            used = self.usage()
            return used <= KEPT_BYTES or used - self._cached() <= KEPT_BYTES
        return False

    def usage(self) -> int:
        """Return the bytes of memory that are charged to the group."""
        return int(read(f"{self._paths['memory']}/{self._memory_file(2)}"))

    def freeze(self) -> None:
        """Stop every process where it is, and wait until all are; without a freezer do nothing."""
        if "freezer" not in self._paths or self._is_frozen:
            return
        self._is_frozen = True
        path = self._paths["freezer"]
        if self._versions["freezer"] == 2:
            write(f"{path}/cgroup.freeze", 1)
            state, sign = f"{path}/cgroup.events", "frozen 1"
        else:
            write(f"{path}/freezer.state", "FROZEN")
            state, sign = f"{path}/freezer.state", "FROZEN"
        deadline = time.monotonic() + FREEZE_S
        while sign not in read(state) and time.monotonic() < deadline:
            time.sleep(0.0002)

    def thaw(self) -> None:
        """Let the processes go on."""
        if not self._is_frozen:
            return
        self._is_frozen = False
        with contextlib.suppress(FileNotFoundError):
            thaw(self._paths["freezer"])

    def remove(self) -> bool:
        """Remove the group; return False if it still has processes."""
        self.thaw()
        with contextlib.suppress(OSError):
            if any(read(f"{folder}/cgroup.procs") for folder in self._folders):
                return False
            if "memory" in self._paths and self.usage() <= MOST_GIVEN_UP:
                self._reclaim(MOST_GIVEN_UP)  # else the group lives on, unseen, for as long as the cache does
        self._folders = [folder for folder in self._folders if not removed(folder)]
        return not self._folders

    def _cached(self) -> int:
        """Return the bytes of files in the cache, without those of a tmpfs, which are memory."""
        lines = dict(line.split(" ") for line in read(f"{self._paths['memory']}/memory.stat").splitlines())
        return int(lines.get("file") or lines["cache"]) - int(lines["shmem"])

    def _reclaim(self, num_bytes: int) -> None:
        path = self._paths["memory"]
        with contextlib.suppress(OSError):  # some stays
            if self._versions["memory"] == 1:
                write(f"{path}/memory.force_empty", 0)
            else:
                write(f"{path}/memory.reclaim", num_bytes)

    def _limit_memory(self, total: int) -> bool:
        of_swap = total if self._versions["memory"] == 1 else 0
        writes = [(self._memory_file(0), total), (self._memory_file(1), of_swap)][: 1 + self._has_swap]
        if total > self._written.get(self._memory_file(0), total):
            writes.reverse()  # in version 1 the limit with swap is never the lower one
        try:
            for name, value in writes:
                self._set("memory", name, value)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True

    def _memory_file(self, index: int) -> str:
        return _MEMORY_FILES[self._versions["memory"]][index]

    def _set(self, controller: str, name: str, value: int) -> None:
        if self._written.get(name) != value:
            write(f"{self._paths[controller]}/{name}", value)
            self._written[name] = value


def thaw(folder: str) -> None:
    """Let the processes of a group go on, if it has a freezer."""
    if os.path.exists(f"{folder}/freezer.state"):
        write(f"{folder}/freezer.state", "THAWED")
    elif os.path.exists(f"{folder}/cgroup.freeze"):
        write(f"{folder}/cgroup.freeze", 0)


def removed(folder: str) -> bool:
    """Remove a group without processes; return False if it has some."""
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True


def read(path: str, missing: str | None = None) -> str:
    """Return what a small file of the kernel holds; `missing`, if given, for one that is not there."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        if missing is None:
            raise
        return missing
    try:
        return os.read(fd, 1 << 14).decode()
    finally:
        os.close(fd)


def write(path: str, value: object) -> None:
    """Write a value to a file of the kernel, which must be there."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)
