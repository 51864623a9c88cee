"""What programs do to sessions, files and descriptors so that the sandbox would fail them, or forget to stop them."""

import contextlib
import dataclasses
import os
import resource
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.envs.sandbox_support import MIB, TIGHT, descendants_of, needs_bubblewrap
from trm_envs.sandbox import LocalSandbox, Status
from trm_envs.sandbox.guest.supervisor import REST_S
from trm_envs.sandbox.local.world import GRACE_S

pytestmark = [pytest.mark.slow, needs_bubblewrap]


@pytest.fixture
def sandbox() -> Iterator[LocalSandbox]:
    with LocalSandbox(dataclasses.replace(TIGHT, wall_s=10.0)) as made:
        yield made


@pytest.fixture
def stopping() -> Iterator[LocalSandbox]:
    """A sandbox without control groups, whose sessions are paused by signals."""
    with LocalSandbox(dataclasses.replace(TIGHT, wall_s=10.0), cgroups="off") as made:
        yield made


def state_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    return ""


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def inside(sandbox: LocalSandbox) -> list[int]:
    """The processes in the sandbox, the zygote first."""
    assert sandbox._zygote is not None
    return descendants_of(sandbox._zygote._process.pid)


def paused_in(sandbox: LocalSandbox) -> int:
    """The one process that is stopped, which takes a moment."""
    deadline = time.monotonic() + 30
    while not (found := [pid for pid in inside(sandbox) if state_of(pid) == "T"]):
        assert time.monotonic() < deadline
    (paused,) = found
    return paused


def wait_until_seen_at_rest(supervisor: int) -> None:
    """Wait until PID 1 sleeps for long: it looks each millisecond until all rest, and then each second."""
    for _ in range(100):
        before = [state_of(supervisor), switches_of(supervisor)]
        time.sleep(0.2)
        if before == ["S", switches_of(supervisor)] and state_of(supervisor) == "S":
            return
    raise AssertionError("the session does not come to rest")


def switches_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text().partition("\nvoluntary_ctxt_switches:")[2]


@pytest.mark.parametrize("with_files", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_session_that_does_not_stay_paused_is_ended(stopping: LocalSandbox, with_files: bool) -> None:
    with stopping.session() as session:
        assert session.run(
            "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
        )
        paused = paused_in(stopping)
        wait_until_seen_at_rest(parent_of(paused))  # one that is woken earlier is stopped again
        os.kill(paused, signal.SIGCONT)  # from outside, for inside nothing can
        deadline = time.monotonic() + 20 * REST_S
        while not with_files and state_of(paused) not in ("", "Z"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        result = session.run("print(1)", files={"f": "x"} if with_files else None)
        assert (result.status, result.return_code, result.state_lost) == (Status.ERROR, -signal.SIGKILL, True), result
        assert session.run("print(2)").stdout == "2\n"


@pytest.mark.parametrize(
    "obstacle",
    [
        "os.mkdir('f'); open('f/x', 'w').close()",
        "os.symlink('/etc', 'f')",
        "os.mkfifo('f')",
        "os.chdir('/'); os.rename('/tmp/work', '/tmp/other')",
        "os.chdir('/'); os.rename('/tmp/work', '/tmp/other'); os.symlink('/proc', '/tmp/work')",
    ],
)
def test_what_a_session_puts_in_the_way_of_a_file_is_its_own_error(sandbox: LocalSandbox, obstacle: str) -> None:
    with sandbox.session() as session:
        assert session.run(f"import os\n{obstacle}").ok
        result = session.run("print(1)", files={"f": "x"}, outputs=["f"])
        assert (result.status, result.state_lost) == (Status.ERROR, False), result
        assert result.stderr.startswith("files['f']: ")
        result = session.run("print(2)", outputs=["version"])
        assert (result.stdout, result.files, set(result.missing)) == ("2\n", {}, {"version"})


def test_what_is_fetched_is_no_more_than_the_disk_holds(sandbox: LocalSandbox) -> None:
    # a file without contents, under many names
    names = [f"f{number}" for number in range(8)]
    code = f"import os\nopen('f0', 'wb').truncate({2 * MIB})\nfor i in range(1, 8): os.link('f0', f'f{{i}}')"
    limits = dataclasses.replace(sandbox.limits, disk_bytes=5 * MIB, file_bytes=2 * MIB)
    result = sandbox.run(code, limits=limits, outputs=names)
    assert result.ok
    assert set(result.files) == {"f0", "f1"}
    assert set(result.missing) == set(names[2:])
    assert result.missing["f2"] == f"{2 * MIB} bytes, at most {MIB} are fetched"


@pytest.mark.slow
def test_a_supervisor_that_is_held_up_means_a_timeout(sandbox: LocalSandbox) -> None:
    # a program can bring that about: it must not become a failure of the sandbox, which nobody counts
    limits = dataclasses.replace(TIGHT, wall_s=2.0)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(sandbox.run, "import time\ntime.sleep(60)", limits=limits)
        time.sleep(0.2)
        assert sandbox._zygote is not None
        waiting = set(sandbox._zygote._idle)
        _zygote, *others = inside(sandbox)
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        result = call.result(GRACE_S + 20)
        for pid in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    assert (result.status, result.duration_s) == (Status.TIMEOUT, limits.wall_s + GRACE_S)
    assert set(sandbox._zygote._idle) <= waiting
    assert sandbox.run("print(1)").stdout == "1\n"


def test_whoever_has_a_copy_of_a_connection_keeps_no_call_alive(stopping: LocalSandbox) -> None:
    with stopping.session() as session:
        assert session.run("x = 1").ok
        paused, world = paused_in(stopping), session._work._world
        assert world is not None
        copy = os.dup(world._connection.fileno())
        session._work.abort()
        deadline = time.monotonic() + 30
        while state_of(paused) == "T" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert state_of(paused) != "T"
        os.close(copy)


def test_a_child_that_is_forked_off_has_no_copy(sandbox: LocalSandbox) -> None:
    with sandbox.session() as session:
        assert session.run("x = 1").ok
        world, zygote = session._work._world, sandbox._zygote
        assert world is not None
        assert zygote is not None
        if (child := os.fork()) == 0:
            has_copy = {world._connection.fileno(), zygote.control.fileno()} != {-1}
            os._exit(has_copy)
        assert os.waitpid(child, 0)[1] == 0
        assert session.run("print(x)").stdout == "1\n"


def test_a_host_without_descriptors_loses_none(sandbox: LocalSandbox) -> None:
    def number() -> int:
        """Descriptors, without those of supervisors that wait."""
        assert sandbox._zygote is not None
        return len(os.listdir("/proc/self/fd")) - len(sandbox._zygote._idle)

    for _ in range(4):
        assert sandbox.run("").ok
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    failed = 0
    for free in range(8):
        before = number()
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1 + free, hard))
            failed += sandbox.run("").status is Status.SANDBOX_ERROR
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert number() <= before
    assert 0 < failed < 8
    assert sandbox.run("print(1)").stdout == "1\n"


def test_descriptors_that_one_keeps_in_flight_are_nobody_elses_loss(sandbox: LocalSandbox) -> None:
    # between being sent and being received, descriptors count for all processes of a user together
    fill = """
import socket
pairs, sent = [], 0
try:
    while True:
        pairs.append(socket.socketpair())
        socket.send_fds(pairs[-1][0], [b'x'], [0] * 120)
        sent += 120
except OSError as error:
    print(sent, error.strerror)
"""
    with sandbox.session() as session:
        for _ in range(10):
            filled = session.run(fill)
            sent, _, why = filled.stdout.strip().partition(" ")
            if sent and int(sent) > 200:
                break  # else it was too slow, or tests that run beside had some in flight
            assert sent or (filled.return_code, filled.state_lost) == (-signal.SIGKILL, True), filled
            time.sleep(0.2)
        assert int(sent) > 200
        assert why == "Too many references: cannot splice"
        for _ in range(20):
            assert sandbox.run("print(1)").stdout == "1\n"
        with sandbox.session() as other:
            assert other.run("print(1)").stdout == other.run("print(1)").stdout == "1\n"


@pytest.mark.slow
def test_hundreds_of_sessions_stay_open_at_once(sandbox: LocalSandbox) -> None:
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(sandbox.session()) for _ in range(300)]
        for number, session in enumerate(sessions):
            assert session.run(f"x = {number}").ok
        for number, session in enumerate(sessions):
            assert session.run("print(x)").stdout == f"{number}\n"
    # their supervisors are all there for others now
    assert all(sandbox.run("print(1)").stdout == "1\n" for _ in range(300))


def test_a_connection_over_the_loopback_holds_little(sandbox: LocalSandbox) -> None:
    # its buffers are the kernel's memory, which no limit of the call counts
    code = (
        "import socket\nserver = socket.create_server(('127.0.0.1', 0))\n"
        "client = socket.create_connection(server.getsockname())\npeer, _ = server.accept()\n"
        "client.setblocking(False)\nsent = 0\ntry:\n    while True: sent += client.send(bytes(1 << 16))\n"
        "except BlockingIOError: print(sent)"
    )
    assert 0 < int(sandbox.run(code).stdout) < MIB / 2
