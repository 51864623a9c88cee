"""Machines that lack something: each says at the start what is missing and what holds, and refuses demands."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.envs.sandbox_settings import missing, skip_or_fail
from tests.envs.sandbox_support import needs_bubblewrap
from trm_envs.commands.sandbox_check import check
from trm_envs.sandbox import LocalSandbox, SandboxUnavailable
from trm_envs.sandbox.local import bubblewrap, cgroups, hierarchies, holds
from trm_envs.sandbox.local.cgroups import Groups

MEMORY = "33 31 0:30 / /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
DEMANDS = {"memory": "memory_cgroup", "pids": "pids_cgroup", "cpu": "cpu_cgroup", "freezer": "freezer"}


def told(capsys: pytest.CaptureFixture[str], *require: str) -> tuple[int, str, dict[str, object]]:
    """Run `trm sandbox check`, and with --json; return the exit code, the lines and the object."""
    code = check(argparse.Namespace(require=require, json=False))
    lines = capsys.readouterr().out
    assert check(argparse.Namespace(require=require, json=True)) == code
    return code, lines, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("complaint", "remedy"),
    [
        (None, "apt-get install bubblewrap"),
        (
            "No permissions to create new namespace, likely because the kernel does not allow",
            "unprivileged_userns_clone",
        ),
        ("Creating new namespace failed: No space left on device", "user namespaces are refused"),
        ("setting up uid map: Permission denied", "AppArmor"),
        ("Can't mount proc on /newroot/proc: Operation not permitted", "systempaths=unconfined"),
    ],
)
def test_where_nothing_can_be_isolated_the_check_and_the_start_say_why(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    complaint: str | None,
    remedy: str,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if complaint is not None:
        script = f'echo "bwrap: {complaint}" >&2; exit 1'
        monkeypatch.setattr(bubblewrap, "find_bubblewrap", lambda: "/bin/sh")
        monkeypatch.setattr(bubblewrap, "command", lambda *_: ["/bin/sh", "-c", script])
    code, lines, found = told(capsys)
    assert (code, lines.splitlines()[0]) == (1, "no program can be isolated here")
    assert remedy in lines
    assert (found["isolated"], found["limits"]) == (False, [])
    assert remedy in str(found["why"])
    with pytest.raises(SandboxUnavailable, match=remedy):
        LocalSandbox(require=())


@pytest.mark.parametrize("lacking", DEMANDS)
def test_a_kernel_without_a_controller_is_told_by_its_name_and_refused_where_it_is_demanded(lacking: str) -> None:
    places, missing = hierarchies.find_places("", "0::/\n")
    assert places == {}
    groups = Groups(places, missing)
    assert f"no mounted hierarchy has the controller {lacking}" in groups.missing[lacking]
    hold = next(hold for hold in holds.holds(groups) if hold.name == lacking)
    with pytest.raises(SandboxUnavailable) as refused:
        holds.check([DEMANDS[lacking]], groups)
    for part in (f"{DEMANDS[lacking]} is demanded", f"the controller {lacking}", f"holds nevertheless: {hold.by}"):
        assert part in str(refused.value)


@pytest.mark.parametrize("number", [30, 1])  # EROFS, EPERM
def test_groups_that_cannot_be_written_are_told_and_what_holds_nevertheless(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def refuse(*_: object) -> Path:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(hierarchies, "_folder", refuse)
    groups = Groups(*hierarchies.find_places(MEMORY, "4:memory:/a\n"))
    assert groups.places == {}
    monkeypatch.setattr(cgroups, "groups_of_this_process", lambda: groups)
    monkeypatch.setattr(LocalSandbox, "__init__", lambda *_, **__: None)  # it starts
    monkeypatch.setattr(LocalSandbox, "close", lambda _: None)
    code, lines, found = told(capsys)
    assert (code, found["isolated"], found["why"]) == (0, True, "")
    assert f"missing: no group can be made beneath /sys/fs/cgroup/memory/a ({os.strerror(number)}); run as" in lines
    code, lines, found = told(capsys, "memory_cgroup")
    assert (code, found["isolated"]) == (1, True)
    assert "memory_cgroup is demanded and cannot be had" in lines
    assert "What holds nevertheless: address space of each process" in str(found["why"])


TRY = """
import argparse, json, sys
from trm_envs.commands.sandbox_check import check
from trm_envs.sandbox import LocalSandbox, SandboxUnavailable
try:
    with LocalSandbox(max_concurrent=4) as sandbox:
        print(json.dumps(sandbox.run("print(6 * 7)").stdout))
except SandboxUnavailable as error:
    print(json.dumps(str(error)))
check(argparse.Namespace(require=sys.argv[1:], json=True))
"""


def on_a_machine(change: str, *require: str) -> tuple[str, dict[str, object]]:
    """Start a sandbox and `trm sandbox check` in a shell that has changed the machine for itself."""
    script = f'{change}\nexec "$0" -c "$@"'
    namespaces = ["unshare", "--mount", "--propagation", "private"]
    command = [*namespaces, "sh", "-ec", script, sys.executable, TRY, *require]
    first, second = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    return json.loads(first), json.loads(second)


@pytest.mark.slow
@needs_bubblewrap
@pytest.mark.parametrize(
    ("change", "require", "starts", "why"),
    [
        (
            "for at in $(awk '/ - cgroup/ {print $5}' /proc/self/mountinfo); do mount -o remount,bind,ro $at; done",
            "memory_cgroup",
            True,
            "(Read-only file system); run as root",
        ),
        (
            "umount $(awk '/ - cgroup .*memory/ {print $5; exit}' /proc/self/mountinfo)",
            "memory_cgroup",
            True,
            "no mounted",
        ),
        ("ulimit -n 120", "room_for_500_sessions", True, "raise the hard limit of open files, 120, to"),
        ("ulimit -n 60", "memory_cgroup", False, "has no room: descriptors allow none; raise the hard limit"),
        ("echo 0 > /proc/sys/user/max_user_namespaces", "memory_cgroup", False, "user namespaces allow none; sysctl"),
    ],
    ids=["read-only groups", "no controller", "few descriptors", "too few descriptors", "no user namespaces"],
)
def test_a_machine_that_lacks_something_runs_programs_with_what_it_has_or_says_why_not(
    change: str, require: str, starts: bool, why: str
) -> None:
    if (reason := missing("root, cgroups")) is not None:
        skip_or_fail(reason)
    if "umount" in change and " - cgroup cgroup " not in Path("/proc/self/mountinfo").read_text():
        skip_or_fail("no hierarchy of version 1 is mounted")
    if "namespaces" in change:
        change = f'exec unshare --user --map-root-user sh -ec \'{change}\nexec "$0" -c "$@"\' "$0" "$@"'
    said, found = on_a_machine(change, require)
    assert (said == "42\n", found["isolated"]) == (starts, starts), (said, found)
    assert why in str(found["why"])
    assert starts or why in said
    assert bool(found["limits"]) == starts
