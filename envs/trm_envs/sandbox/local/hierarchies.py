"""The control-group hierarchies of this machine, and the folders beneath which this process may make groups."""

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path

CONTROLLERS = ("memory", "pids", "cpu", "freezer")
OWN_LEAF = "trm-host"
"""Group of version 2 that takes the processes of the group beneath which others are made: it may have none itself."""
DELEGATE = (
    "run as root, or under `systemd-run --user --scope -p Delegate=yes`, in docker with a writable /sys/fs/cgroup"
)
_KEY_FILES = {
    ("memory", 1): "memory.limit_in_bytes",
    ("memory", 2): "memory.max",
    ("pids", 1): "pids.max",
    ("pids", 2): "pids.max",
    ("cpu", 1): "cpu.shares",
    ("cpu", 2): "cpu.weight",
    ("freezer", 1): "freezer.state",
    ("freezer", 2): "cgroup.freeze",
}


@dataclass(frozen=True)
class Hierarchy:
    """A mounted hierarchy."""

    version: int
    """1 or 2."""
    controllers: frozenset[str]
    """Controllers that it holds; in version 2 those that this process's group may hand on, and the freezer."""
    mount: Path
    """Place where it is mounted."""
    own: Path
    """Folder of this process's group."""


@dataclass(frozen=True)
class Place:
    """A folder beneath which groups with one controller can be made."""

    controller: str
    """One of `CONTROLLERS`."""
    version: int
    """1 or 2."""
    folder: Path
    """The folder."""


def find_places(mountinfo: str | None = None, cgroup: str | None = None) -> tuple[dict[str, Place], dict[str, str]]:
    """Find a place for each controller.

    Args:
        mountinfo: the text of /proc/self/mountinfo; None reads it.
        cgroup: the text of /proc/self/cgroup; None reads it.

    Returns:
        The places by controller, and for each controller that has none the reason with the remedy.
    """
    try:
        mountinfo = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
        cgroup = Path("/proc/self/cgroup").read_text() if cgroup is None else cgroup
    except OSError as error:
        return {}, dict.fromkeys(CONTROLLERS, f"this kernel has no control groups ({error.strerror})")
    found = hierarchies(mountinfo, cgroup)
    places: dict[str, Place] = {}
    missing: dict[str, str] = {}
    for controller in CONTROLLERS:
        # version 2 first: there a frozen process can be killed
        holders = sorted((each for each in found if controller in each.controllers), key=lambda each: -each.version)
        if not holders:
            missing[controller] = f"no mounted hierarchy has the controller {controller}; mount one, {DELEGATE}"
        for each in holders:
            try:
                places[controller] = Place(controller, each.version, _folder(each, controller))
                missing.pop(controller, None)
                break
            except OSError as error:
                missing[controller] = f"no group can be made beneath {each.own} ({error.strerror or error}); {DELEGATE}"
    return places, missing


def hierarchies(mountinfo: str, cgroup: str) -> list[Hierarchy]:
    """Read the two files of /proc/self that list mounts and groups."""
    groups: dict[str, str] = {}
    for line in cgroup.splitlines():
        _, listed, path = line.split(":", 2)
        groups.update(dict.fromkeys(listed.split(","), path))
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        _, _, _, root, mount, *_ = before.split(" ")
        names = {""} if kind == "cgroup2" else set(options.split(",")) & set(CONTROLLERS)
        paths = {groups[name] for name in names if name in groups}
        for own in (Path(mount) / _relative(path, root) for path in paths):
            held = _handed_on(own) | {"freezer"} if kind == "cgroup2" else names
            found.append(Hierarchy(2 if kind == "cgroup2" else 1, frozenset(held), Path(mount), own))
    return found


def _relative(path: str, root: str) -> str:
    """Return a group's path below the root of its mount, which in a container is not the hierarchy's."""
    if root != "/" and (path == root or path.startswith(f"{root}/")):
        path = path[len(root) :]
    return "" if path.startswith("/..") else path.lstrip("/")


def _handed_on(own: Path) -> set[str]:
    try:
        return set((own / "cgroup.controllers").read_text().split()) & set(CONTROLLERS)
    except OSError:
        return set()


def _folder(hierarchy: Hierarchy, controller: str) -> Path:
    """Return the folder beneath which groups with the controller can be made, which has been tried.

    Raises:
        OSError: if there is none.
    """
    folder = hierarchy.own if hierarchy.version == 1 else _folder_of_version_2(hierarchy, controller)
    trial = folder / f"trm-trial-{os.getpid()}"
    with contextlib.suppress(FileExistsError):
        trial.mkdir()
    try:
        if not (trial / _KEY_FILES[controller, hierarchy.version]).exists():
            raise OSError(errno.ENOENT, f"its groups have no {_KEY_FILES[controller, hierarchy.version]}")
    finally:
        trial.rmdir()
    return folder


def _folder_of_version_2(hierarchy: Hierarchy, controller: str) -> Path:
    """Return the nearest group, this process's own first, that hands the controller on.

    A group other than the root that hands one on may have no processes: a group that was delegated to this user is
    asked to, and its processes are moved to a group beneath; one that was not delegated is left as it is.
    """
    if controller == "freezer":  # no controller in version 2: every group has it
        return hierarchy.own
    own = hierarchy.own
    for folder in (own, *own.parents):
        if controller in _words(folder / "cgroup.subtree_control"):
            return folder
        if folder == hierarchy.mount:
            break
    if _is_delegated(own) or own == hierarchy.mount:
        _hand_on(own, controller)
        return own
    raise OSError(errno.EPERM, f"{own} hands no {controller} controller on, and was not delegated to this user")


def _hand_on(own: Path, controller: str) -> None:
    try:
        _write(own / "cgroup.subtree_control", f"+{controller}")
        return
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
    leaf = own / OWN_LEAF
    with contextlib.suppress(FileExistsError):
        leaf.mkdir()
    for _ in range(10):  # processes may be forked meanwhile
        for pid in _words(own / "cgroup.procs"):
            with contextlib.suppress(ProcessLookupError):
                _write(leaf / "cgroup.procs", pid)
        with contextlib.suppress(OSError):
            return _write(own / "cgroup.subtree_control", f"+{controller}")
    _write(own / "cgroup.subtree_control", f"+{controller}")


def _is_delegated(folder: Path) -> bool:
    """Return True if the group belongs to this user alone, by systemd's mark or by its owner."""
    for name in ("trusted.delegate", "user.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(folder, name) == b"1":
                return True
    with contextlib.suppress(OSError):
        return os.geteuid() != 0 and folder.stat().st_uid == os.geteuid()
    return False


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
