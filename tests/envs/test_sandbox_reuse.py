"""Namespaces that serve one call after another: nothing of a call reaches the next one, nor its memory."""

import dataclasses
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.envs.sandbox_support import MIB, TIGHT, needs_bubblewrap
from trm_envs.sandbox import Limits, LocalSandbox, Status
from trm_envs.sandbox.guest import wire
from trm_envs.sandbox.guest.supervisor import IDLE_S, MAX_CALLS
from trm_envs.sandbox.local.cgroups import Groups
from trm_envs.sandbox.local.world import World

pytestmark = [pytest.mark.slow, needs_bubblewrap]

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
while True:
    try: sent = socket.send_fds(here, [b'x'], [here.fileno(), there.fileno(), named.fileno()])
    except OSError as error:
        if error.strerror != 'Too many references: cannot splice': raise
        time.sleep(0.002)  # other calls of the user, as of tests that run beside, may have all in flight for a moment
    else: break
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
for folder in ('/tmp', '/dev/shm', '/tmp/work'):
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

# looks for a text, given backwards, in all memory of the process
SEARCH = """
needle, found = input()[::-1].encode(), 0
for line in open('/proc/self/maps'):
    (start, end), rights = [int(part, 16) for part in line.split()[0].split('-')], line.split()[1]
    if 'r' in rights and '[v' not in line:
        with open('/proc/self/mem', 'rb') as memory:
            memory.seek(start)
            found += memory.read(end - start).count(needle)
print(found)
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


@pytest.mark.parametrize(
    "use",
    [
        # a connection that was closed in good order holds its port for a minute, for whoever does not ask for its reuse
        "server = socket.socket()\nserver.bind(('127.0.0.1', 4711))\nserver.listen()\n"
        "client = socket.create_connection(('127.0.0.1', 4711))\npeer, _ = server.accept()\npeer.close()\n"
        "client.recv(1)\nclient.close()",
        # nothing is sent, and counted all the same
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect_ex(('8.8.8.8', 9))",
        "socket.socket(socket.AF_INET6)",
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "import subprocess\nsubprocess.run(['bash', '-c', 'echo > /dev/tcp/127.0.0.1/9'])",
    ],
)
@pytest.mark.parametrize("kind", ["call", "session"])
def test_a_used_network_is_not_used_again(sandbox: LocalSandbox, use: str, kind: str) -> None:
    networks = []
    for _ in range(NUM_CALLS):
        with sandbox.session() as session:
            result = (sandbox if kind == "call" else session).run(SAY_WORLD + use)
        assert result.status is Status.OK, result
        networks.append(result.stdout)
    assert len(set(networks)) == NUM_CALLS


@pytest.mark.parametrize(
    ("code", "limits", "status"),
    [
        ("while True: pass", TIGHT, Status.TIMEOUT),
        (
            "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n"
            "        x = bytearray(b'x') * (60 << 20); time.sleep(60)\ntime.sleep(60)",
            ROOMY,
            Status.MEMORY,
        ),
        ("while True: print('x' * 10000)", ROOMY, Status.OUTPUT_LIMIT),
    ],
)
def test_a_world_in_which_a_limit_was_reached_is_not_used_again(
    sandbox: LocalSandbox, code: str, limits: Limits, status: Status
) -> None:
    result = sandbox.run(SAY_WORLD + code, limits=limits)
    assert result.status is status
    assert result.stdout.split()[0] not in {world(sandbox) for _ in range(NUM_CALLS)}


@pytest.mark.slow
def test_a_world_serves_so_many_calls_and_no_more(sandbox: LocalSandbox) -> None:
    served: Counter[str] = Counter()
    while not served or max(served.values()) < MAX_CALLS:
        assert served.total() < 20 * MAX_CALLS
        served[world(sandbox)] += 1
    (used_up, _), *_ = served.most_common(1)
    assert used_up not in {world(sandbox) for _ in range(NUM_CALLS)}


@pytest.mark.slow
def test_a_world_without_calls_ends_by_itself(sandbox: LocalSandbox) -> None:
    used = world(sandbox)
    zygote = sandbox._zygote
    assert zygote is not None
    waiting = zygote._idle[-1]
    assert not waiting.has_ended()
    deadline = time.monotonic() + IDLE_S + 20
    while not waiting.has_ended():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert world(sandbox) != used
    assert waiting not in zygote._idle


@pytest.mark.parametrize("is_open", [False, True])
def test_an_order_that_comes_too_late_goes_to_another_world(sandbox: LocalSandbox, is_open: bool) -> None:
    # the moment between a supervisor's last look at its connection and its end
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    here.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    with there:
        for message in (wire.HERE, wire.HERE, wire.READY):
            there.send(message)
        if is_open:
            there.send(wire.REFUSED)
        else:
            there.shutdown(socket.SHUT_RD)
        assert sandbox._zygote is not None
        sandbox._zygote._idle.appendleft(World(here, Groups({}, {})))
        assert sandbox.run("print(1)", files=None if is_open else {"f": "x"}).stdout == "1\n"
        assert here.fileno() == -1


@pytest.mark.parametrize("more", [1, 1000, 70_000, 1 << 20])
def test_a_cell_that_writes_too_much_is_stopped_whenever_that_is_seen(sandbox: LocalSandbox, more: int) -> None:
    with sandbox.session() as session:
        assert session.run("x = 1\nopen('kept', 'w').write('y')").ok
        result = session.run(f"import sys\nprint('x' * {ROOMY.output_bytes + more - 1})")
        assert (result.status, result.state_lost, result.stdout_truncated) == (Status.OUTPUT_LIMIT, True, True)
        assert len(result.stdout) == ROOMY.output_bytes
        assert session.run("print('x' in globals(), open('kept').read())").stdout == "False y\n"


@pytest.mark.parametrize(
    "code",
    [
        "while True: print('x' * 10000)",
        # it has ended when it is to be stopped, and its supervisor, whose network was used, has too
        f"import socket\nsocket.socket()\nprint('x' * {ROOMY.output_bytes + 1000})",
    ],
)
def test_a_program_that_writes_too_much_is_judged_by_that(sandbox: LocalSandbox, code: str) -> None:
    with ThreadPoolExecutor(6) as threads:
        results = list(threads.map(lambda _: sandbox.run(code), range(60)))
    assert Counter(result.status for result in results) == {Status.OUTPUT_LIMIT: 60}


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


def test_no_memory_of_a_program_holds_what_an_earlier_one_read_or_wrote(sandbox: LocalSandbox) -> None:
    # a process that saw one call's data must not be forked for another: it would hand on what it has not overwritten
    worlds = []
    for number in (1, 20, 200):
        for _ in range(3):
            code = f"{SAY_WORLD}for i in range({number}): print('an' + 'swer', input(), i, file=open('out', 'a'))"
            files = {"given": "4711-is-hidden " * number}
            result = sandbox.run(code, stdin="4711-is-hidden\n" * number, files=files, outputs=["out", "given", "no"])
            assert result.files["out"].startswith(b"answer 4711-is-hidden 0")
            worlds.append(result.stdout.strip())
            with sandbox.session() as session:
                said = session.run(f"{SAY_WORLD}print('answer 4711-is-hidden ' * {number})", files=files)
                assert session.run("print(open('given').read())", outputs=["given"]).stdout.startswith("4711-is-hidden")
                worlds.append(said.stdout.split()[0])
    for text in ("answer 4711", "is-hidden"):
        for _ in range(NUM_CALLS):
            found = sandbox.run(SAY_WORLD + SEARCH, stdin=text[::-1]).stdout.split()
            assert found[1] == sandbox.run(SEARCH, stdin="gnihton-fo-siht").stdout.strip()
            worlds.append(found[0])
    assert len(set(worlds)) < len(worlds) / 2, "few namespaces were used again: this test has shown little"
