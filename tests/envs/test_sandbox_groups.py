"""Control groups at work: a paused session is frozen, shares are equal, the kernel's kill is told, nothing is left."""

import contextlib
import dataclasses
import fnmatch
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.envs.sandbox_attacks_memory import GROW
from tests.envs.sandbox_attacks_pause import RUN_ON
from tests.envs.sandbox_settings import missing, opened
from tests.envs.sandbox_support import MIB, TIGHT, descendants_of, needs_bubblewrap
from trm_envs.sandbox import Limits, LocalSandbox, SandboxUnavailable, Status
from trm_envs.sandbox.local.cgroups import groups_of_this_process, remove_leftovers

pytestmark = [
    pytest.mark.slow,
    needs_bubblewrap,
    pytest.mark.skipif(
        missing("root, cgroups") is not None and not os.environ.get("TRM_ALL_SETTINGS"),
        reason="needs root and control groups",
    ),
]

WIDE = dataclasses.replace(TIGHT, wall_s=20.0, memory_bytes=512 * MIB, processes=64)
GROUPED = ("root, cgroups", "user, cgroups")
TICKS_OF_A_START = 10
END_S = 30.0
"""Longest wait, on a busy machine, for processes to end that were killed."""


def ticks(pids: list[int]) -> int:
    """Processor time of processes, in the kernel's ticks."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total


def state_of(pid: int) -> str:
    """The kernel's letter for a process: Z has ended and waits for its new parent to ask; empty without one."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    return ""


def folders_of(pid: int) -> list[Path]:
    """A process's groups; those of others, such as tests that run beside, come and go meanwhile."""
    places = (Path(folder, name) for folder, names, _ in os.walk("/sys/fs/cgroup") for name in names)
    return [path for path in places if fnmatch.fnmatch(path.name, f"trm-sandbox-*-{pid}-*")]


def supervisors_of(pid: int) -> set[Path]:
    """Groups of a process's supervisors; other tests' sandboxes may be open in it."""
    return {Path(path, name) for path in folders_of(pid) for name in next(os.walk(path), ("", [], []))[1]}


@pytest.mark.parametrize("name", GROUPED)
def test_the_death_of_the_host_process_ends_frozen_and_running_sessions(name: str) -> None:
    with opened(name, WIDE) as setting, setting.session() as paused, ThreadPoolExecutor(1) as pool:
        assert paused.run(RUN_ON["a thread"]).ok
        running = pool.submit(setting.run, "while True: pass")
        before = ticks(descendants_of(setting.pid))
        while ticks(descendants_of(setting.pid)) < before + TICKS_OF_A_START:  # it has begun
            assert not running.done()
            time.sleep(0.01)
        inside, folders = descendants_of(setting.pid), folders_of(setting.pid)
        assert len(inside) > 4
        assert folders
        paused.forget()
        os.kill(setting.pid, signal.SIGKILL)
        with pytest.raises(EOFError):
            running.result()
        check_all_vanish(inside, folders)


def check_all_vanish(pids: list[int], folders: list[Path]) -> None:
    """Check that processes end and, at the next start of a host process, their groups go."""
    deadline = time.monotonic() + END_S
    while left := {pid: state for pid in pids if (state := state_of(pid)) not in ("", "Z")}:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)
    for folder in folders:
        remove_leftovers(folder.parent)
        while folder.exists():  # who was being born as the host died may take its time to die
            assert time.monotonic() < deadline, list(folder.glob("*"))
            remove_leftovers(folder.parent)


OF_VERSION_1 = """
import time
from trm_envs.sandbox import LocalSandbox
from trm_envs.sandbox.local import cgroups
found = cgroups.find_places
cgroups.find_places = lambda: found("".join(line for line in open("/proc/self/mountinfo") if "cgroup2" not in line))
sandbox = LocalSandbox()
closed, session = sandbox.session(), sandbox.session()
for each in (closed, session):
    assert each.run("x = 6").ok and each.run("print(x * 7)").stdout == "42\\n"
closed.close()
with LocalSandbox() as other:
    other.session().run("x = 1")
    frozen = other.session()
    frozen.run("x = 1")
print(sandbox.isolation["freezer"], flush=True)
time.sleep(60)
"""


def wait_until_at_rest(pid: int) -> list[int]:
    """Wait until nothing under a process runs for a second, and return all: what waits for a call is made beside."""
    deadline = time.monotonic() + END_S
    while True:
        inside = descendants_of(pid)
        before = ticks(inside)
        time.sleep(1)
        if (ticks(inside), descendants_of(pid)) == (before, inside):
            return inside
        assert time.monotonic() < deadline


def test_with_the_freezer_of_version_1_too_the_death_of_the_host_process_ends_all() -> None:
    # nobody can kill what is frozen there: a process that outlives the host's thaws it
    with subprocess.Popen([sys.executable, "-c", OF_VERSION_1], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("control group of version 1")
        inside = wait_until_at_rest(process.pid)
        process.kill()
    check_all_vanish(inside, folders_of(process.pid))


@pytest.fixture
def sandbox() -> Iterator[LocalSandbox]:
    with LocalSandbox(WIDE, max_concurrent=4) as made:
        yield made


BURST = """
import mmap, os, signal, time
ready, go = os.pipe()
for _ in range(16):
    if os.fork() == 0:
        m = mmap.mmap(-1, 40 << 20, mmap.MAP_PRIVATE)
        os.close(go)
        os.read(ready, 1)
        for at in range(0, 40 << 20, 4096): m[at] = 1
        time.sleep(60)
time.sleep(0.2)
os.close(go)
time.sleep(1)
"""


@pytest.mark.parametrize(
    "code", [GROW["shared, a page kept"], GROW["unseen processes"], BURST], ids=["shared", "unseen", "burst"]
)
def test_memory_however_it_is_taken_is_told_as_the_memory_limit(sandbox: LocalSandbox, code: str) -> None:
    limits = dataclasses.replace(WIDE, memory_bytes=64 * MIB, disk_bytes=MIB)
    result = sandbox.run(code, limits=limits)
    assert (result.status, result.return_code) == (Status.MEMORY, None), result
    with sandbox.session() as session:
        assert session.run("x = 1", limits=limits).ok
        lost = session.run(code, limits=limits)
        assert (lost.status, lost.state_lost) == (Status.MEMORY, True), lost
        assert session.run("print(1)").stdout == "1\n"
    assert sandbox.run("print(1)").stdout == "1\n"


@pytest.mark.parametrize("name", GROUPED)
def test_a_burst_between_two_looks_is_held_by_the_group(name: str) -> None:
    limits = dataclasses.replace(WIDE, memory_bytes=64 * MIB, disk_bytes=MIB)
    with opened(name, limits) as setting:
        assert setting.memory is not None
        peak = setting.memory / "memory.max_usage_in_bytes"
        assert setting.run("print(1)").ok
        peak.write_text("0")
        base = int(peak.read_text())
        result = setting.run(BURST)
        assert result.status is Status.MEMORY, result
        assert int(peak.read_text()) - base < (64 + 1 + 64) * MIB


def test_a_session_that_holds_more_than_a_cell_may_has_reached_the_limit(sandbox: LocalSandbox) -> None:
    with sandbox.session() as session:
        assert session.run("x = bytearray(b'y') * (200 << 20)").ok
        less = dataclasses.replace(WIDE, memory_bytes=64 * MIB, disk_bytes=MIB)
        result = session.run("import time; time.sleep(0.3)", limits=less)
        assert (result.status, result.state_lost) == (Status.MEMORY, True), result
        assert session.run("print(1)").stdout == "1\n"


def test_a_session_may_be_closed_while_it_is_frozen(sandbox: LocalSandbox) -> None:
    for _ in range(3):
        with sandbox.session() as session:
            assert session.run("import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()").ok
    session = sandbox.session()
    assert session.run("x = 1").ok
    session._work.abort()
    assert session.run("print('x' in globals())").stdout == "False\n"
    session.close()


def test_a_program_has_the_share_of_one_however_many_processes_it_starts() -> None:
    spin = "import os, resource, sys, time\nend = time.monotonic() + 1.5\n"
    many = spin + (
        "for _ in range(30):\n    if os.fork() == 0:\n        os.setsid()\n        try: os.nice(-5)\n"
        "        except OSError: pass\n        while time.monotonic() < end: pass\n        os._exit(0)\n"
        "for _ in range(30): os.wait()\nused = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_utime + used.ru_stime)"
    )
    one = spin + "while time.monotonic() < end: pass\nprint(time.process_time())"
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    try:
        with LocalSandbox(WIDE, max_concurrent=2) as sandbox, ThreadPoolExecutor(2) as pool:
            shares = [float(result.stdout) for result in pool.map(sandbox.run, (many, one))]
    finally:
        os.sched_setaffinity(0, processors)
    assert shares[1] > 0.3 * sum(shares), shares


def test_nothing_is_charged_between_calls_and_no_group_is_left() -> None:
    before = supervisors_of(os.getpid())
    with LocalSandbox(WIDE, max_concurrent=1) as sandbox:
        fill = "import glob\nopen('f', 'wb').write(bytes(3 << 20))\nx = bytearray(b'x') * (200 << 20)\n"
        fill += "for p in glob.glob('/usr/lib/*/*.so*')[:200]: open(p, 'rb').read()"
        usages = []
        for _ in range(4):
            assert sandbox.run(fill).ok
            assert sandbox.run("").ok
            groups = [world._group for world in sandbox._zygote._idle]  # type: ignore[union-attr]
            usages += [group.usage() - group._cached() for group in groups]
        assert max(usages) < 40 * MIB, usages
        assert supervisors_of(os.getpid()) - before
    groups_of_this_process().sweep(END_S)
    assert supervisors_of(os.getpid()) <= before


def test_a_limit_of_processes_holds_in_the_group_too(sandbox: LocalSandbox) -> None:
    code = "import os, time\nn = 0\ntry:\n    while True:\n        if os.fork() == 0: time.sleep(9)\n        n += 1\n"
    code += "except OSError: print(n)"
    assert int(sandbox.run(code, limits=Limits(processes=9)).stdout) == 8


def test_a_user_without_a_delegated_folder_is_told_the_remedy_and_what_holds() -> None:
    with opened("user, no cgroups", WIDE, cgroups="auto") as setting:
        assert setting.run("print(1)").stdout == "1\n"
        for controller in ("memory", "pids", "cpu", "freezer"):
            assert "Permission denied); run as root, or under `systemd-run --user" in setting.isolation[controller]
    with (
        pytest.raises(SandboxUnavailable, match=r"memory_cgroup is demanded.*What holds nevertheless: address space"),
        opened("user, no cgroups", WIDE, cgroups="auto", require=["memory_cgroup"]),
    ):
        pass
