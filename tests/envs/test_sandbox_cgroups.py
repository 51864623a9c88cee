"""Control groups: where they are found, what is written to them, and what is demanded of them."""

import errno
import os
from pathlib import Path

import pytest

from trm_envs.commands import sandbox_check
from trm_envs.sandbox import Limits, LocalSandbox, SandboxUnavailable, shared, shared_sandbox
from trm_envs.sandbox.local import cgroups, demands, group_room, hierarchies, holds
from trm_envs.sandbox.local.cgroups import Groups
from trm_envs.sandbox.local.group import CLERK_FACTOR, OVERHEAD_BYTES, OVERHEAD_PROCESSES, Group
from trm_envs.sandbox.local.hierarchies import Hierarchy, Place
from trm_envs.sandbox.unsafe.sandbox import UnsafeSandbox

MIB = 1 << 20
HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:4 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
CONTAINER = "40 31 0:38 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"


def test_each_controller_is_found_in_the_hierarchy_that_holds_it() -> None:
    found = hierarchies.hierarchies(HYBRID, "4:memory:/a/b\n1:cpu,cpuacct:/c\n3:name=systemd:/x\n0::/d\n")
    own = {tuple(sorted(each.controllers)): (each.version, str(each.own)) for each in found}
    assert own == {
        ("cpu",): (1, "/sys/fs/cgroup/cpu,cpuacct/c"),
        ("memory",): (1, "/sys/fs/cgroup/memory/a/b"),
        ("freezer",): (2, "/sys/fs/cgroup/unified/d"),
    }


@pytest.mark.parametrize(("path", "own"), [("/docker/abc", ""), ("/docker/abc/d", "/d"), ("/../other", "")])
def test_the_root_of_a_containers_mount_is_taken_off(path: str, own: str) -> None:
    (found,) = hierarchies.hierarchies(CONTAINER, f"4:memory:{path}\n")
    assert str(found.own) == f"/sys/fs/cgroup/memory{own}"


def group_of_version_2(folder: Path, controllers: str, handed_on: str, pids: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    files = {"cgroup.controllers": controllers, "cgroup.subtree_control": handed_on, "cgroup.procs": pids}
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_version_2_takes_the_nearest_group_that_hands_a_controller_on(tmp_path: Path) -> None:
    root = group_of_version_2(tmp_path, "memory pids", "memory pids")
    own = group_of_version_2(root / "a.slice" / "b.service", "memory", "")
    group_of_version_2(own.parent, "memory pids", "memory")
    held = Hierarchy(2, frozenset({"memory", "pids"}), root, own)
    assert hierarchies._folder_of_version_2(held, "memory") == own.parent
    assert hierarchies._folder_of_version_2(held, "pids") == root
    assert hierarchies._folder_of_version_2(held, "freezer") == own


def test_a_delegated_group_hands_on_once_its_processes_are_in_a_group_beneath(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the files of a group as they are written by the host; no kernel of version 2 has been asked
    own = group_of_version_2(tmp_path / "scope", "memory", "", pids="41\n42\n")
    group_of_version_2(own / hierarchies.OWN_LEAF, "", "")
    monkeypatch.setattr(hierarchies, "_is_delegated", lambda folder: folder == own)
    written: list[tuple[str, str]] = []

    def write(path: Path, text: str) -> None:
        moved = [pid for name, pid in written if name == f"{hierarchies.OWN_LEAF}/cgroup.procs"]
        if path.name == "cgroup.subtree_control" and len(moved) < 2:
            raise OSError(errno.EBUSY, "busy")
        written.append((str(path.relative_to(own)), text))

    monkeypatch.setattr(hierarchies, "_write", write)
    held = Hierarchy(2, frozenset({"memory"}), tmp_path, own)
    assert hierarchies._folder_of_version_2(held, "memory") == own
    leaf = f"{hierarchies.OWN_LEAF}/cgroup.procs"
    assert written == [(leaf, "41"), (leaf, "42"), ("cgroup.subtree_control", "+memory")]


def test_a_group_that_was_not_delegated_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = group_of_version_2(tmp_path / "session.scope", "memory", "", pids="1\n")
    monkeypatch.setattr(hierarchies, "_is_delegated", lambda _: False)
    with pytest.raises(PermissionError, match="hands no memory controller on"):
        hierarchies._folder_of_version_2(Hierarchy(2, frozenset({"memory"}), tmp_path, own), "memory")
    assert (own / "cgroup.subtree_control").read_text() == ""


def fake(folder: Path, version: int) -> Group:
    """A group whose files are ordinary ones."""
    files = {
        1: ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control"),
        2: ("memory.max", "memory.swap.max", "memory.current", "memory.events"),
    }[version]
    frozen = {1: ("freezer.state",), 2: ("cgroup.freeze", "cgroup.events")}[version]
    (folder / "1").mkdir()
    for name in (*files, *frozen, "pids.max", "cgroup.procs"):
        (folder / "1" / name).write_text("")
    return Group({name: Place(name, version, folder) for name in ("memory", "pids", "freezer")}, "1")


@pytest.mark.parametrize(
    ("version", "limit", "with_swap", "swap"),
    [(1, "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", None), (2, "memory.max", "memory.swap.max", "0")],
)
def test_memory_and_files_are_limited_together_and_swap_too(
    tmp_path: Path, version: int, limit: str, with_swap: str, swap: str | None
) -> None:
    group = fake(tmp_path, version)
    assert group.limit(Limits(memory_bytes=64 * MIB, processes=7), disk_bytes=8 * MIB)
    total = str(72 * MIB + OVERHEAD_BYTES)
    texts = {path.name: path.read_text() for path in (tmp_path / "1").iterdir()}
    assert (texts[limit], texts[with_swap]) == (total, swap or total)
    assert texts["pids.max"] == str(7 + OVERHEAD_PROCESSES)


@pytest.mark.parametrize("version", [1, 2])
def test_the_clerk_has_room_of_its_own_while_it_works(tmp_path: Path, version: int) -> None:
    group = fake(tmp_path, version)
    limit = tmp_path / "1" / ("memory.limit_in_bytes", "memory.max")[version - 1]
    group.limit(Limits(memory_bytes=64 * MIB), disk_bytes=8 * MIB)
    before = int(limit.read_text())
    group.widen(8 * MIB)
    assert int(limit.read_text()) == before + CLERK_FACTOR * 8 * MIB
    assert group.narrow()
    assert limit.read_text().startswith(str(before))  # an ordinary file keeps what is longer


def test_version_1_raises_the_limit_with_swap_first_and_lowers_it_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, written = fake(tmp_path, 1), []
    monkeypatch.setattr("trm_envs.sandbox.local.group.write", lambda path, value: written.append(Path(path).name))
    for memory in (64, 128, 128, 64):
        group.limit(Limits(memory_bytes=memory * MIB), disk_bytes=MIB)
    low, high = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
    # what stays the same is not written again
    assert [name for name in written if name != "pids.max"] == [low, high, high, low, low, high]


@pytest.mark.parametrize("version", [1, 2])
def test_a_process_that_the_kernel_killed_is_told_once(tmp_path: Path, version: int) -> None:
    group = fake(tmp_path, version)
    events = tmp_path / "1" / {1: "memory.oom_control", 2: "memory.events"}[version]
    events.write_text("low 0\noom_kill 0\n")
    assert not group.was_exceeded()
    events.write_text("low 0\noom 9\noom_kill 2\noom_group_kill 0\n")
    assert [group.was_exceeded(), group.was_exceeded()] == [True, False]


@pytest.mark.parametrize(
    ("version", "file", "words"), [(1, "freezer.state", "FROZEN THAWED"), (2, "cgroup.freeze", "1 0")]
)
def test_a_group_is_frozen_and_thawed(tmp_path: Path, version: int, file: str, words: str) -> None:
    group = fake(tmp_path, version)
    (tmp_path / "1" / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    for act, word in zip((group.freeze, group.thaw), words.split(), strict=True):
        (tmp_path / "1" / file).write_text("")
        act()
        assert (tmp_path / "1" / file).read_text() == word


def test_groups_of_ended_host_processes_are_removed_and_others_stay(tmp_path: Path) -> None:
    space, alive = cgroups._namespace(), cgroups._start_time(os.getpid())
    names = {
        f"trm-sandbox-{space}-{os.getpid()}-{alive}": True,
        f"trm-sandbox-{space}-{os.getpid()}-1": False,  # its number has been given to another process
        f"trm-sandbox-{space}-4194303-5": False,
        f"trm-sandbox-1{space}-4194303-5": True,  # of another PID namespace
        "trm-sandbox-of-mine": True,
    }
    for name in names:
        (tmp_path / name).mkdir()
    cgroups.remove_leftovers(tmp_path)
    assert {name: (tmp_path / name).exists() for name in names} == names


def test_a_group_that_another_start_removes_at_the_same_moment_costs_no_controller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / f"trm-sandbox-{cgroups._namespace()}-4194303-5"
    left.mkdir()
    look = cgroups._start_time
    monkeypatch.setattr(cgroups, "_start_time", lambda pid: (pid == 4194303 and left.rmdir(), look(pid))[1])
    groups = Groups({"memory": Place("memory", 1, tmp_path)}, {})
    assert groups.missing == {}


NONE = Groups({}, dict.fromkeys(hierarchies.CONTROLLERS, "read-only; make it writable"))


def test_a_demand_that_is_not_met_is_refused_with_reason_and_with_what_holds() -> None:
    with pytest.raises(SandboxUnavailable, match=r"sandbox\.require: memory_cgroup .*make it writable.*watched every"):
        holds.check(["memory_cgroup"], NONE)
    with pytest.raises(ValueError, match=r"sandbox\.require: got 'memory'; allowed: memory_cgroup, .*did you mean"):
        holds.check(["memory"], NONE)
    holds.check([], NONE)


def test_too_few_descriptors_are_refused_with_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    few = holds.rooms([("descriptors", "300", 3, "ulimit -n 1600"), ("free memory", "9999", 8, "")])
    assert [(room.name, room.sessions) for room in few] == [("descriptors", 100), ("free memory", 1249)]
    monkeypatch.setattr(holds, "rooms", lambda: few)
    holds.check([], NONE)
    with pytest.raises(SandboxUnavailable, match="descriptors allow 100; ulimit -n 1600"):
        holds.check(["room_for_500_sessions"], NONE)
    monkeypatch.setattr(holds, "rooms", lambda: [holds.Room("descriptors", 0, "ulimit -n 1600")])
    with pytest.raises(SandboxUnavailable, match="descriptors allow none; ulimit -n 1600"):
        holds.check([], NONE)


def container(folder: Path, version: int, limits: tuple[str, str, str]) -> tuple[str, str]:
    """A hierarchy of three groups, the root first, of which each has used 1 GiB, half of it files, and 90 processes.

    Returns:
        The texts of /proc/self/mountinfo and of /proc/self/cgroup.
    """
    limit, usage, cached, kept = group_room._FILES["memory"][version]
    stat = f"{cached} {600 * MIB}\ninactive_file {10 * MIB}\n{kept} {88 * MIB}\nrss 7\n"
    for path, value in zip((folder, folder / "a", folder / "a" / "b"), limits, strict=True):
        path.mkdir(exist_ok=True)
        texts = {limit: value, usage: str(1024 * MIB), "memory.stat": stat}
        for name, text in {**texts, "pids.max": "100", "pids.current": "90"}.items() if value else ():
            (path / name).write_text(text)
    kind = "cgroup cgroup rw,memory" if version == 1 else "cgroup2 cgroup2 rw"
    return f"35 31 0:32 / {folder} rw - {kind}\n", "4:memory:/a/b\n" if version == 1 else "0::/a/b\n"


UNLIMITED = str((1 << 63) - 4096)


@pytest.mark.parametrize(
    ("version", "limits", "holder", "left"),
    [
        (1, (UNLIMITED, str(4096 * MIB), UNLIMITED), "a", 3584 * MIB),
        (1, (UNLIMITED, str(4096 * MIB), str(700 * MIB)), "a/b", 188 * MIB),
        (1, (UNLIMITED, UNLIMITED, UNLIMITED), "", None),
        (2, ("", "max", str(4096 * MIB)), "a/b", 3584 * MIB),
        (2, ("", str(256 * MIB), "max"), "a", 0),
        (2, ("", "max", "max"), "", None),
    ],
)
def test_a_containers_limit_bounds_the_sessions_however_much_the_machine_has(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: int,
    limits: tuple[str, str, str],
    holder: str,
    left: int | None,
) -> None:
    texts = container(tmp_path, version, limits)
    find, name = group_room.left, group_room._FILES["memory"][version][0]
    assert find("memory", *texts) == (None if left is None else group_room.Left(tmp_path / holder / name, left))
    monkeypatch.setattr(group_room, "left", lambda controller: find(controller, *texts))
    rooms = {room.name.partition(" left to")[0]: room for room in holds.rooms() if "control group" in room.name}
    assert rooms["processes"].sessions == 10 // holds.PROCESSES
    assert ("bytes of memory" in rooms) == (left is not None)
    if left is not None:
        room = rooms["bytes of memory"]
        assert (room.sessions, f"raise {tmp_path / holder / name};" in room.remedy) == (
            left // holds.SESSION_BYTES,
            True,
        )


def test_demands_reach_the_sandboxes_of_a_process_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(demands.DEMANDS, "")
    monkeypatch.setattr(shared, "_shared", shared._Shared())
    shared._shared.sandboxes["unsafe", ()] = UnsafeSandbox.__new__(UnsafeSandbox)  # one that was there before
    demands.demand(["memory_cgroup", "freezer"])
    assert demands.demanded() == ["memory_cgroup", "freezer"]
    with pytest.raises(SandboxUnavailable, match="memory_cgroup, freezer cannot be seen to hold with sandbox=unsafe"):
        shared_sandbox("unsafe")
    with pytest.raises(SandboxUnavailable, match=r'memory_cgroup is demanded.*cgroups="off"'):
        LocalSandbox(cgroups="off")


def test_the_means_of_confinement_stand_in_summaries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_shared", shared._Shared())
    assert shared.isolation() == {}
    made = LocalSandbox.__new__(LocalSandbox)
    made._has_groups, made.python = False, "/usr/bin/python3"
    shared._shared.sandboxes["local", ()] = made
    assert 'turned off by cgroups="off"' in shared.isolation()["memory"]


def test_the_check_tells_means_reasons_and_room() -> None:
    found = sandbox_check.report(NONE, True, "")
    told = {limit["name"]: limit for limit in found["limits"]}
    assert told["memory"]["missing"] == "read-only; make it writable"
    assert {"pids", "cpu", "freezer", "files", "network"} < set(told)
    assert "missing: read-only" in sandbox_check.text(found)
    lost = sandbox_check.text(sandbox_check.report(NONE, False, "no bubblewrap"))
    assert lost == "no program can be isolated here\nno bubblewrap"
