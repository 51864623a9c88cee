"""No way of allocating holds more than a call's memory, its files and 64 MiB, in any setting."""

import dataclasses

import pytest

from tests.envs.sandbox_attacks_mappings import OF_DESCENDANTS
from tests.envs.sandbox_attacks_memory import GROW, SHORT_CELL, SLOW_TO_LOAD
from tests.envs.sandbox_growth import grown
from tests.envs.sandbox_settings import Setting, setting, skip_or_fail  # noqa: F401
from tests.envs.sandbox_support import MIB, TIGHT, needs_bubblewrap
from trm_envs.sandbox import Status

pytestmark = [pytest.mark.slow, needs_bubblewrap]

LIMITS = dataclasses.replace(TIGHT, wall_s=2.0, memory_bytes=64 * MIB, disk_bytes=8 * MIB, processes=32)
MOST = LIMITS.memory_bytes + LIMITS.disk_bytes + 64 * MIB
WAYS = {**GROW, "mappings of descendants": OF_DESCENDANTS}
REFUSED = ("memfd", "System V shared memory")


@pytest.mark.parametrize("name", WAYS)
def test_no_way_of_allocating_holds_more_than_the_limits(
    setting: Setting,  # noqa: F811
    name: str,
) -> None:
    if setting.memory is None:
        skip_or_fail("measured by memory.stat of version 1")
    is_watched = not setting.has_cgroups  # else the kernel holds them, however busy the machine is
    growth, result = grown(setting, lambda: setting.run(WAYS[name], limits=LIMITS), most=MOST, is_watched=is_watched)
    assert growth.most < MOST, (growth, result)
    assert result.status is not Status.SANDBOX_ERROR, result
    if name in REFUSED:
        assert result.status is Status.ERROR
    assert setting.run("print(1)").stdout == "1\n"


CROWD_OF_TEN = """
import os, signal, time
pids = []
for number in range(10):
    pids.append(os.fork())
    if pids[-1] == 0:
        if number == 0: os.kill(os.getpid(), signal.SIGSTOP)
        else: time.sleep(60)
        os._exit(0)
def state(pid): return open(f'/proc/{pid}/stat').read().rpartition(') ')[2][0]
while state(pids[0]) != 'T': time.sleep(0.001)
seen = []
for _ in range(60):
    seen.append([state(pid) for pid in pids])
    time.sleep(0.005)
print({states[0] for states in seen}, any(states[1:] == ['S'] * 9 for states in seen))
os.kill(pids[0], signal.SIGCONT)
print(os.waitpid(pids[0], 0)[1])
"""


def test_a_process_of_many_that_has_stopped_itself_stays_so_and_others_go_on(
    setting: Setting,  # noqa: F811
) -> None:
    result = setting.run(CROWD_OF_TEN, limits=dataclasses.replace(LIMITS, wall_s=10.0, memory_bytes=128 * MIB))
    assert result.stdout == "{'T'} True\n0\n", result


WITHOUT_MEMORY_GROUPS = """
import os
from trm_envs.sandbox import Limits, LocalSandbox
from trm_envs.sandbox.local import cgroups
groups = cgroups._of_processes[os.getpid()]
place = groups.places.pop("memory")
groups.missing["memory"] = "not on this machine"
try:
    with LocalSandbox(sandbox.limits) as other:
        value = other.isolation["memory"], other.run({code!r}, limits={limits!r}).status.value
finally:
    groups.places["memory"] = place
    del groups.missing["memory"]
"""


def test_a_crowd_is_watched_where_groups_hold_the_processor_and_none_the_memory(
    setting: Setting,  # noqa: F811
) -> None:
    if setting.memory is None or not setting.has_cgroups:
        return  # there are none to be without
    source = WITHOUT_MEMORY_GROUPS.format(code=GROW["many processes at once"], limits=LIMITS)
    growth, (told, status) = grown(setting, lambda: setting.evaluate(source), most=MOST, is_watched=True)
    assert "address space" in told
    assert growth.most < MOST, growth
    assert status == "memory"


SCRIPTS = (
    "true & ls / | cat; wait",
    "true | true | true",
    'for n in 1 2 3 4 5 6 7 8 9; do sleep 5 & p="$p $!"; done; '
    "for n in 1 2 3 4 5 6 7 8; do true | true; done; kill $p; wait",
)
"""Scripts whose children end while others are made: a `fork` that a signal ends is the end of the shell."""


def test_a_shell_makes_processes_while_others_end(setting: Setting) -> None:  # noqa: F811
    code = f"""
import subprocess
for script, number in zip({SCRIPTS!r}, (50, 50, 5)):
    for _ in range(number):
        done = subprocess.run(['/bin/sh', '-c', script + '; echo done'], capture_output=True, text=True)
        assert done.stdout.endswith('done\\n') and not done.stderr, (script, done)
print('all')
"""
    result = setting.run(code, limits=dataclasses.replace(LIMITS, wall_s=30.0, cpu_s=30, memory_bytes=256 * MIB))
    assert result.stdout == "all\n", result


FORKING = """
import os, time
ballast = bytearray(b'x') * (100 << 20)  # to be copied by a fork, so that most looks come in the middle of one
for _ in range(10):
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
for _ in range(100):
    pid = os.fork()
    if pid == 0: os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
print('all')
"""


def test_a_crowd_that_is_looked_at_while_it_forks_goes_on(setting: Setting) -> None:  # noqa: F811
    result = setting.run(FORKING, limits=dataclasses.replace(LIMITS, wall_s=20.0, cpu_s=20, memory_bytes=256 * MIB))
    assert result.stdout == "all\n", result


def test_files_that_the_host_writes_and_reads_are_not_the_programs_memory(
    setting: Setting,  # noqa: F811
) -> None:
    limits = dataclasses.replace(LIMITS, wall_s=10.0, memory_bytes=40 * MIB, disk_bytes=20 * MIB, file_bytes=10 * MIB)
    files = {"a": b"x" * (9 * MIB), "b": b"y" * (9 * MIB)}
    given = setting.run("print(1)", files=files, outputs=["a", "b"], limits=limits)
    assert (given.status, given.files, given.missing) == (Status.OK, files, {}), given.status
    with setting.session() as session:
        # with the interpreter's 19 MiB of addresses, of which 40 are allowed
        made = "x = bytearray(b'y') * (11 << 20)\nfor name, byte in (('a', b'x'), ('b', b'y')):\n"
        made += "    with open(name, 'wb') as file: file.write(byte * (9 << 20))"
        assert session.run(made, limits=limits).ok
        fetched = session.run("print(len(x))", outputs=["a", "b"], limits=limits)
        assert (fetched.status, fetched.files, fetched.missing) == (Status.OK, files, {}), fetched.status


def test_cells_that_are_shorter_than_a_look_hold_no_more_either(
    setting: Setting,  # noqa: F811
) -> None:
    limits = dataclasses.replace(LIMITS, memory_bytes=256 * MIB)
    with setting.session() as session:
        results = [session.run(SHORT_CELL, limits=limits) for _ in range(5)]
    assert [result.status for result in results] == [*[Status.OK] * 4, Status.MEMORY]
    assert results[-1].state_lost


def test_a_process_that_takes_another_program_holds_nobody_up(setting: Setting) -> None:  # noqa: F811
    limits = dataclasses.replace(LIMITS, wall_s=2.0, cpu_s=30, memory_bytes=256 * MIB)
    result = setting.run(SLOW_TO_LOAD, limits=limits)
    assert result.status is Status.TIMEOUT
    assert result.duration_s < 3.5, result  # a supervisor that waited would have used more
