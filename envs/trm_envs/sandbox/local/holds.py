"""Limits that hold on this machine and their means, room for sessions, and demands on both."""

import contextlib
import os
import resource
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trm_envs.sandbox.interface import SandboxUnavailable
from trm_envs.sandbox.local import group_room
from trm_envs.sandbox.local.cgroups import Groups
from trm_envs.sandbox.local.demands import FIELD, REQUIRABLE
from trm_fields import nearest, refuse

MANY = 500
"""Number of sessions for which there should be room."""
DESCRIPTORS = 3
"""Descriptors of an idle session in the host process."""
SPARE_DESCRIPTORS = 64
"""Descriptors that the host process and running calls need besides."""
PROCESSES = 2
"""Processes of an idle session: supervisor and program."""
SESSION_BYTES = 8 << 20
"""Memory of an idle session whose program has imported little."""
_NAMESPACES = ("user", "pid", "mnt", "ipc", "uts", "net")


@dataclass(frozen=True)
class Hold:
    """A limit or a boundary, and the means by which it holds."""

    name: str
    """Name of the limit; that of a controller for those that a control group can hold."""
    by: str
    """Means by which it holds here."""
    missing: str = ""
    """Better means that cannot be had, with the reason and the remedy; empty if there are none."""


@dataclass(frozen=True)
class Room:
    """The number of sessions that one resource allows."""

    name: str
    """Name of the resource."""
    sessions: int
    """Number of idle sessions."""
    remedy: str
    """Way to more."""


def holds(groups: Groups) -> list[Hold]:
    """List the limits of a call."""
    memory = "address space of each process; the resident memory of all of them, watched every 2 to 50 ms"
    cpu = "RLIMIT_CPU of each process; the more threads run the less each weighs; programs start no sessions (setsid)"
    found = [
        _by_group(groups, "memory", memory, "limited with files and the kernel's own, beside the watch"),
        _by_group(groups, "pids", "RLIMIT_NPROC in the call's own user namespace", "limited"),
        _by_group(groups, "cpu", cpu, "each call weighs the same"),
        _by_group(groups, "freezer", "signals that stop, repeated until nothing moves", "frozen between cells"),
    ]
    return [
        *found,
        Hold("files", "a mount namespace without the host's files; tmpfs with size and inode limits, RLIMIT_FSIZE"),
        Hold("network", "an empty network namespace"),
        Hold("privileges", "an unprivileged user in its own namespaces, no capabilities, no_new_privs"),
        Hold("system calls", "a seccomp filter"),
    ]


def facts(groups: Groups) -> dict[str, str]:
    """Return the same as one line each, for logs and results."""
    return {hold.name: hold.by + (f" (missing: {hold.missing})" if hold.missing else "") for hold in holds(groups)}


def rooms(limits: Iterable[tuple[str, str, int, str]] | None = None) -> list[Room]:
    """List how many sessions each resource of the host process allows, the scarcest first.

    Args:
        limits: name, value, need of a session and remedy of each; None looks at this machine.
    """
    found = [Room(name, int(value) // need, remedy) for name, value, need, remedy in limits or _limits()]
    return sorted(found, key=lambda room: room.sessions)


def check(required: Iterable[str], groups: Groups, field: str = FIELD) -> None:
    """Refuse a machine on which a demand is not met, or one without room for a single call.

    Raises:
        ValueError: if there is no such demand.
        SandboxUnavailable: if one is not met; it says what holds nevertheless.
    """
    least = rooms()[0]
    if least.sessions < 1:
        raise SandboxUnavailable(f"the local sandbox has no room: {least.name} allow none; {least.remedy}")
    names = {"memory_cgroup": "memory", "pids_cgroup": "pids", "cpu_cgroup": "cpu", "freezer": "freezer"}
    for name in required:
        if name not in REQUIRABLE:
            allowed = ", ".join(REQUIRABLE)
            refuse(field, name, allowed, nearest(str(name), REQUIRABLE, "choose some of them, or none"))
        if name in names and names[name] not in groups.places:
            why, kept = groups.missing[names[name]], facts(groups)[names[name]].partition(" (missing")[0]
            raise SandboxUnavailable(
                f"{field}: {name} is demanded and cannot be had: {why}. What holds nevertheless: {kept}. "
                f"Allowed without it: leave {name} out"
            )
        if name not in names and least.sessions < MANY:
            raise SandboxUnavailable(
                f"{field}: {name} is demanded, and {least.name} allow {least.sessions}; {least.remedy}"
            )


def _by_group(groups: Groups, controller: str, otherwise: str, with_group: str) -> Hold:
    if controller in groups.places:
        place = groups.places[controller]
        return Hold(controller, f"control group of version {place.version}: {with_group} ({place.folder.parent})")
    return Hold(controller, otherwise, groups.missing.get(controller, "no control group"))


def _limits() -> list[tuple[str, str, int, str]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd")) + SPARE_DESCRIPTORS
    more = MANY * DESCRIPTORS + used
    remedy = f"ulimit -n {more}" if hard >= more else f"raise the hard limit of open files, {hard}, to {more}"
    found = [("descriptors", str(max(0, soft - used)), DESCRIPTORS, remedy)]
    with contextlib.suppress(OSError, KeyError, ValueError):
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
        free = str(int(lines["MemAvailable"].split()[0]) * 1024)
        found.append(("bytes of free memory", free, SESSION_BYTES, "end other programs, or add memory"))
    for controller, name, need in (("memory", "bytes of memory", SESSION_BYTES), ("pids", "processes", PROCESSES)):
        if left := group_room.left(controller):
            remedy = f"raise {left.limit}; it is the limit of a container, or of a service"
            found.append((f"{name} left to this process's control group", str(left.number), need, remedy))
    with contextlib.suppress(OSError):
        value = Path("/proc/sys/kernel/pid_max").read_text()
        found.append(("process numbers", value, PROCESSES, "sysctl kernel.pid_max=4194304"))
    most = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if most != resource.RLIM_INFINITY:
        found.append(("processes of this user", str(most), PROCESSES, f"ulimit -u {MANY * PROCESSES * 2}"))
    for name in _NAMESPACES:
        path = Path(f"/proc/sys/user/max_{name}_namespaces")
        with contextlib.suppress(OSError):
            found.append((f"{name} namespaces", path.read_text(), 1, f"sysctl user.max_{name}_namespaces={2 * MANY}"))
    return found
