"""Namespaces that serve one call after another: nothing of a call reaches the next, and nobody touches PID 1."""

import contextlib
import dataclasses
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.envs.sandbox_support import MIB, TIGHT, needs_bubblewrap
from trm_envs.sandbox import Limits, LocalSandbox, Status
from trm_envs.sandbox.guest.supervisor import MAX_CALLS

pytestmark = needs_bubblewrap

ROOMY = dataclasses.replace(TIGHT, wall_s=10.0)
NUM_CALLS = 12
# the network namespace's cookie, for numbers under /proc/self/ns are given anew (SOL_SOCKET, SO_NETNS_COOKIE)
SAY_WORLD = "import os, socket\nprint(socket.socketpair()[0].getsockopt(1, 71, 8).hex(), flush=True)\n"
LOOK = """
import os, sys, threading
seen = {
    'pids': [name for name in os.listdir('/proc') if name.isdigit()],
    'files': [found for top in ('/tmp', '/dev', '/var', '/run', '/home', '/root') for found in os.walk(top)],
    'main': sorted(globals()),
    'environment': dict(os.environ),
    'path': sys.path[:],
    'modules': sorted(sys.modules),
    'threads': threading.active_count(),
    'descriptors': len(os.listdir('/proc/self/fd')),
    'named sockets': [line for line in open('/proc/net/unix') if '@' in line],
    'limits': open('/proc/self/limits').read(),
    'mask': os.umask(0o22),
    'folder': os.getcwd(),
    'nice': os.nice(0),
    'processors': os.sched_getaffinity(0),
    'mounts': [line.split()[:3] for line in open('/proc/mounts')],
}
"""
SOCKETS_IN_FLIGHT = """
here, there = socket.socketpair()  # sent over each other, they outlive the processes until the kernel collects them
socket.send_fds(here, [b'x'], [here.fileno(), there.fileno(), named.fileno()])
"""
LITTER = """
import socket, time, json, builtins
os.environ['LEFT'] = 'x'
os.umask(0)
os.nice(5)
os.sched_setaffinity(0, {0})
builtins.print, printed = None, print
sys.path.append('left')
json.loads = None
for folder in ('/tmp', '/dev/shm', '.'):
    open(os.path.join(folder, '.left'), 'w').write('x')
os.mkfifo('fifo')
named = socket.socket(socket.AF_UNIX)
named.bind('\\0left')
named.listen()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        held = open('.left')
        os.chdir('/dev/shm')
        time.sleep(60)
    os._exit(0)
os.wait()
printed(repr(seen), file=sys.stderr)
"""


@pytest.fixture
def sandbox() -> Iterator[LocalSandbox]:
    with LocalSandbox(ROOMY) as made:
        yield made


def world(sandbox: LocalSandbox) -> str:
    """Which namespaces a call gets."""
    return sandbox.run(SAY_WORLD).stdout.strip()


@pytest.mark.parametrize("in_flight", [False, True])
@pytest.mark.parametrize("kind", ["call", "session"])
def test_everybody_finds_the_same_world_whatever_others_have_left(
    sandbox: LocalSandbox, kind: str, in_flight: bool
) -> None:
    worlds, views = [], set()
    for _ in range(NUM_CALLS):
        with sandbox.session() as session:
            result = (sandbox if kind == "call" else session).run(
                SAY_WORLD + LOOK + LITTER + in_flight * SOCKETS_IN_FLIGHT
            )
        assert result.status is Status.OK, result
        worlds.append(result.stdout.split()[0])
        views.add(result.stderr)
    assert in_flight or len(set(worlds)) < NUM_CALLS, "no namespaces were used again: this test has shown nothing"
    assert len(views) == 1, views


def test_a_session_of_many_cells_leaves_nothing_either(sandbox: LocalSandbox) -> None:
    worlds = []
    for _ in range(NUM_CALLS):
        with sandbox.session() as session:
            first = session.run(f"{SAY_WORLD}import threading, time\nprint(os.listdir('.'))")
            session.run(
                "secret = 7\nopen('left', 'w').write('x')\nthreading.Thread(target=time.sleep, args=(60,)).start()"
            )
            assert session.run("print(secret, os.listdir('.'))").stdout == "7 ['left']\n"
            assert session.run("1 / 0").status is Status.ERROR
        name, listing = first.stdout.splitlines()
        assert listing == "[]", first
        worlds.append(name)
    assert len(set(worlds)) < NUM_CALLS, "no namespaces were used again: this test has shown nothing"


def test_a_session_that_is_closed_while_a_cell_runs_is_over(sandbox: LocalSandbox) -> None:
    session = sandbox.session()
    own = session.run(f"{SAY_WORLD}import time").stdout.strip()
    with ThreadPoolExecutor(1) as threads:
        cell = threads.submit(session.run, "time.sleep(60)")
        time.sleep(0.3)
        session.close()
        assert cell.result(5).status is Status.SANDBOX_ERROR
    assert own not in {world(sandbox) for _ in range(NUM_CALLS)}
    with pytest.raises(ValueError, match="closed"):
        session.run("print(1)")


def test_a_cell_that_is_given_up_returns_at_once(sandbox: LocalSandbox) -> None:
    # poll looks a descriptor's number up again when it is woken: that number must not be another socket's by then
    with ThreadPoolExecutor(1) as threads, contextlib.ExitStack() as opened:
        for _ in range(40):
            session = sandbox.session()
            assert session.run("import time").ok
            cell = threads.submit(session.run, "time.sleep(60)")
            time.sleep(0.01)
            session.close()
            for end in socket.socketpair():
                opened.enter_context(end)
            assert cell.result(5).status is Status.SANDBOX_ERROR


def test_a_used_network_is_not_used_again(sandbox: LocalSandbox) -> None:
    # a connection that was closed in good order holds its port for a minute, for whoever does not ask for its reuse
    code = (
        f"{SAY_WORLD}server = socket.socket()\nserver.bind(('127.0.0.1', 4711))\nserver.listen()\n"
        "client = socket.create_connection(('127.0.0.1', 4711))\npeer, _ = server.accept()\npeer.close()\n"
        "client.recv(1)\nclient.close()"
    )
    networks = []
    for _ in range(NUM_CALLS):
        result = sandbox.run(code)
        assert result.status is Status.OK, result
        networks.append(result.stdout)
    assert len(set(networks)) == NUM_CALLS


@pytest.mark.parametrize(
    ("code", "limits", "status"),
    [
        ("while True: pass", TIGHT, Status.TIMEOUT),
        ("x = bytearray(1 << 40)", ROOMY, Status.MEMORY),
        ("while True: print('x' * 10000)", ROOMY, Status.OUTPUT_LIMIT),
    ],
)
def test_a_world_in_which_a_limit_was_reached_is_not_used_again(
    sandbox: LocalSandbox, code: str, limits: Limits, status: Status
) -> None:
    result = sandbox.run(SAY_WORLD + code, limits=limits)
    assert result.status is status
    assert result.stdout.split()[0] not in {world(sandbox) for _ in range(NUM_CALLS)}


def test_a_world_serves_so_many_calls_and_no_more(sandbox: LocalSandbox) -> None:
    served: Counter[str] = Counter()
    while not served or max(served.values()) < MAX_CALLS:
        assert served.total() < 20 * MAX_CALLS
        served[world(sandbox)] += 1
    (used_up, _), *_ = served.most_common(1)
    assert used_up not in {world(sandbox) for _ in range(NUM_CALLS)}


def test_limits_are_those_of_the_call(sandbox: LocalSandbox) -> None:
    fill = "try:\n    for i in range(20): open(f'f{i}', 'wb').write(bytes(1 << 20))\nexcept OSError: pass\nprint(i)"
    wide = dataclasses.replace(ROOMY, disk_bytes=16 * MIB, memory_bytes=64 * MIB)
    worlds = []
    for limits in (ROOMY, wide) * NUM_CALLS:
        result = sandbox.run(SAY_WORLD + fill, limits=limits)
        assert result.status is Status.OK, result
        worlds.append(result.stdout.split()[0])
        written = int(result.stdout.split()[1])
        assert limits.disk_bytes - 2 * MIB < written * MIB <= limits.disk_bytes
    assert len(set(worlds)) < len(worlds)


@pytest.mark.parametrize(
    "attack",
    [
        *(f"resource.prlimit(1, resource.RLIMIT_{kind}, (0, 0))" for kind in ("NOFILE", "CPU", "AS", "FSIZE", "NPROC")),
        "os.setpriority(os.PRIO_PROCESS, 1, 19)",
        "os.setpriority(os.PRIO_USER, os.getuid(), 19)",
        "os.sched_setaffinity(1, {0})",
        "os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0))",
        "open('/proc/1/oom_score_adj', 'w').write('1000')",
        "os.open('/proc/1/mem', os.O_RDWR)",
        "os.listdir('/proc/1/fd')",
        "os.pidfd_open(1) and libc.syscall(438, os.pidfd_open(1), 0, 0) >= 0 or refuse()",
    ],
)
def test_the_judge_is_out_of_reach(sandbox: LocalSandbox, attack: str) -> None:
    # with PID 1 at its mercy a wrong program could turn its verdict into a sandbox_error, which nobody counts
    code = (
        "import ctypes, os, resource\nlibc = ctypes.CDLL(None)\ndef refuse(): raise PermissionError\n"
        f"try:\n    {attack}\n    print('reached')\nexcept PermissionError:\n    print('refused')\nraise SystemExit(3)"
    )
    for _ in range(2):
        result = sandbox.run(code)
        assert (result.status, result.return_code, result.stdout) == (Status.ERROR, 3, "refused\n"), result


@pytest.mark.parametrize("session", [False, True])
def test_no_signal_of_a_program_reaches_the_judge(sandbox: LocalSandbox, session: bool) -> None:
    code = (
        "import os, signal, time\nfor number in range(1, 65):\n    if number not in (32, 33): os.kill(1, number)\n"
        "time.sleep(0.1)\nprint('alive')"
    )
    with sandbox.session() as opened:
        result = (opened if session else sandbox).run(code)
    assert (result.status, result.stdout) == (Status.OK, "alive\n"), result


def test_a_program_is_interrupted_as_everywhere(sandbox: LocalSandbox) -> None:
    code = "import os, signal\ntry: os.kill(os.getpid(), signal.SIGINT)\nexcept KeyboardInterrupt: print('interrupted')"
    assert sandbox.run(code).stdout == "interrupted\n"
