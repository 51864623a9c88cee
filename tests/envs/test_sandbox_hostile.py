"""Hostile programs: each ends in a structured result, in time, with the host and the next run unharmed."""

import dataclasses
import socket
import time
from collections.abc import Iterator

import pytest

from tests.envs.fusion_support import running_server
from tests.envs.sandbox_support import MIB, TIGHT, descendants_of, needs_bubblewrap
from trm_envs.sandbox import LocalSandbox, Result, Sandbox
from trm_envs.sandbox.fusion.sandbox import FusionSandbox
from trm_envs.sandbox.guest.zygote import SPARES

pytestmark = [pytest.mark.slow, needs_bubblewrap]

# name -> (code, the allowed statuses, what stdout must hold)
HOSTILE = {
    "busy loop": ("while True: pass", "timeout", ""),
    "sleep past the deadline": ("import time; time.sleep(60)", "timeout", ""),
    "signals ignored": (
        "import signal\nfor n in range(1, 32):\n    if n not in (9, 19): signal.signal(n, signal.SIG_IGN)\n"
        "print('armed', flush=True)\nwhile True: pass",
        "timeout",
        "armed",
    ),
    "fork bomb": (
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        # beside other work its copies may be found to hold more than the memory before its time is over
        "timeout memory",
        "",
    ),
    "double-fork daemon": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(60)\n    os._exit(0)\n"
        "print('left')",
        "ok",
        "left",
    ),
    "thread bomb": (
        "import threading, time\nn = 0\ntry:\n    while True:\n"
        "        threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); n += 1\n"
        "except RuntimeError: print('refused', n < 13)",
        "ok",
        "refused True",
    ),
    "100 GB allocation": ("x = bytearray(100 << 30)", "memory", ""),
    "slow leak over many children": (
        "import os, time\nfor _ in range(6):\n    if os.fork() == 0:\n"
        "        x = bytearray(b'x') * (60 << 20); time.sleep(60)\ntime.sleep(60)",
        "memory",
        "",
    ),
    "disk fill": (
        "import errno\ntry:\n    for i in range(99):\n        open(f'f{i}', 'wb').write(bytes(1 << 20))\n"
        "except OSError as e: print(errno.errorcode[e.errno])",
        "ok",
        "ENOSPC",
    ),
    "a million empty files": (
        "import errno\ntry:\n    for i in range(1000000): open(f'f{i}', 'w').close()\n"
        "except OSError as e: print(errno.errorcode[e.errno], i < 200)",
        "ok",
        "ENOSPC True",
    ),
    "sparse 1 TB file": (
        "import errno\ntry:\n    open('big', 'wb').truncate(1 << 40)\n"
        "except OSError as e: print(errno.errorcode[e.errno])",
        "ok",
        "EFBIG",
    ),
    "memory outside of every limit": (
        "import os\ntry:\n    os.memfd_create('x')\nexcept OSError as e: print(e.strerror)",
        "ok",
        "Operation not permitted",
    ),
    "infinite stdout": ("while True: print('x' * 1000)", "output_limit", "x"),
    "infinite stderr": ("import sys\nwhile True: sys.stderr.write('x' * 1000)", "output_limit", ""),
    "waits on absent stdin": ("input()", "error", ""),
    "kills parent, 1 and all": (
        "import os, signal\nprint(os.getppid(), flush=True)\n"
        "for pid in (os.getppid(), 1):\n    os.kill(pid, signal.SIGKILL); os.kill(pid, signal.SIGTERM)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n\n"
        "try: os.kill(-1, signal.SIGKILL)\nexcept ProcessLookupError: pass\nprint('on')",
        "ok",
        "1\non",
    ),
    "SIGSEGV": ("import ctypes; ctypes.string_at(0)", "error", ""),
    "deep recursion": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()",
        "error memory timeout",
        "",
    ),
    "huge integer": ("print(len(str(9**9**9)))", "timeout error memory", ""),
    "a setuid program": ("import os; os.setuid(0)", "error", ""),
    "stopped by itself": ("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", "timeout", ""),
}


ROOMY = dataclasses.replace(TIGHT, wall_s=10.0)
"""For what ends by itself: it gets time enough on a busy machine."""


@pytest.fixture(scope="module")
def local() -> Iterator[LocalSandbox]:
    with LocalSandbox(ROOMY) as made:
        yield made


@pytest.fixture(scope="module", params=["local", "server"])
def sandbox(request: pytest.FixtureRequest, local: LocalSandbox) -> Iterator[Sandbox]:
    """The local sandbox itself, and the same behind HTTP."""
    if request.param == "local":
        yield local
    else:
        with running_server(local) as address, FusionSandbox(address, limits=ROOMY) as made:
            yield made


def check_unharmed(sandbox: Sandbox, local: LocalSandbox) -> None:
    # a fresh world: no file left, no process but itself
    after = sandbox.run("import os\nprint(os.listdir('.'), [p for p in os.listdir('/proc') if p.isdigit()])")
    assert after.stdout == "[] ['2']\n", after
    # the zygote, and supervisors that wait, each with a program; the last call may take a moment to vanish
    zygote = local._zygote
    assert zygote is not None
    expected = 1 + 2 * (SPARES + len(zygote._idle))
    deadline = time.monotonic() + 10
    while len(left := descendants_of(zygote._process.pid)) > expected and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(left) <= expected


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_ends_in_time_and_harms_nobody(sandbox: Sandbox, local: LocalSandbox, name: str) -> None:
    code, statuses, printed = HOSTILE[name]
    limits = TIGHT if "timeout" in statuses else ROOMY
    for _ in range(3):  # a busy machine may keep anybody waiting, once
        started = time.monotonic()
        result = sandbox.run(code, limits=limits)
        elapsed = time.monotonic() - started
        assert result.status.value in statuses.split(), result
        check_unharmed(sandbox, local)
        if result.duration_s < limits.wall_s + 0.5 and elapsed < limits.wall_s + 2 and printed in result.stdout:
            return
    raise AssertionError((elapsed, result))


def fails_with(code: str) -> str:
    return f"import os, socket, ctypes, errno\ntry:\n    {code}\nexcept OSError as e: print(errno.errorcode[e.errno])"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("socket.create_connection(('1.1.1.1', 80), 1)", "ENETUNREACH"),
        ("socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('8.8.8.8', 53))", "ENETUNREACH"),
        ("socket.create_connection(('169.254.169.254', 80), 1)", "ENETUNREACH"),
        ("socket.socket(socket.AF_UNIX).connect('/var/run/docker.sock')", "ENOENT"),
        ("os.kill(99999, 9)", "ESRCH"),
        ("open('/etc/shadow')", "ENOENT"),
        ("os.listdir('/root')", "ENOENT"),
        ("open('/proc/1/environ').read()", "ENOENT"),
        ("open('/proc/1/mem').read()", "ENOENT"),
        ("os.listdir('/proc/1/fd')", "ENOENT"),
        ("open('/proc/sys/kernel/core_pattern', 'w')", "EROFS"),
        ("open('/proc/self/autogroup', 'w')", "EROFS"),
        ("open('/usr/lib/python3/dist-packages/x.py', 'w')", "EROFS"),
        ("open('/evil', 'w')", "EROFS"),
        ("open('/dev/evil', 'w')", "EROFS"),
        ("os.mknod('disk', 0o60600, 0x800)", "EPERM"),
        ("socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)", "EPERM"),
        ("socket.socketpair(socket.AF_PACKET, socket.SOCK_RAW)", "EPERM"),
        ("os.chroot('/tmp')", "EPERM"),
    ],
)
def test_what_lies_outside_is_refused(sandbox: Sandbox, code: str, error: str) -> None:
    assert sandbox.run(fails_with(code)).stdout == f"{error}\n"


@pytest.mark.parametrize(
    "call",
    [
        "ptrace(16, 1, 0, 0)",
        "process_vm_readv(1, None, 0, None, 0, 0)",
        "unshare(0x10000000)",
        "mount(b'none', b'/tmp', b'tmpfs', 0, None)",
        "syscall(56, 0x10000000 | 17, 0, 0, 0, 0)",
        "shmget(0, 4096, 0o1600)",
        "inotify_init1(0)",  # of which a user has few
        # what could wake a session between its cells
        "syscall(56, 18, 0, 0, 0, 0)",
        "fcntl(0, 10, 18)",
        "prctl(1, 18, 0, 0, 0)",
    ],
)
def test_what_no_task_needs_is_refused(sandbox: Sandbox, call: str) -> None:
    code = f"import ctypes, errno, socket\nlibc = ctypes.CDLL(None, use_errno=True)\nresult = libc.{call}\n"
    code += "print(result, errno.errorcode.get(ctypes.get_errno()))"
    assert sandbox.run(code).stdout == "-1 EPERM\n"


def test_a_timer_that_could_wake_a_session_does_not_exist(sandbox: Sandbox) -> None:
    code = "import ctypes, errno\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    code += "print(libc.timer_create(1, bytes(64), bytes(8)), errno.errorcode[ctypes.get_errno()])"
    assert sandbox.run(code).stdout == "-1 ENOSYS\n"
    assert sandbox.run("timeout 5 echo done", "bash").stdout == "done\n"


def test_a_service_on_the_hosts_loopback_is_out_of_reach(sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert sandbox.run(fails_with(f"socket.create_connection(('127.0.0.1', {port}), 1)")).stdout == "ECONNREFUSED\n"


def test_the_environment_of_the_host_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET_KEY", "hush")
    with LocalSandbox(ROOMY) as fresh:
        result = fresh.run("cat /proc/self/environ; env", "bash")
    assert "PATH" in result.stdout
    assert "hush" not in result.stdout


def test_no_descriptor_is_inherited_beyond_the_three_streams(sandbox: Sandbox) -> None:
    result = sandbox.run(
        "import os\nprint(sorted(int(n) for n in os.listdir('/proc/self/fd') if os.path.lexists(f'/proc/self/fd/{n}')))"
    )
    assert result.stdout == "[0, 1, 2]\n"


def test_output_below_the_limit_is_whole_however_fast_the_program_ends(sandbox: Sandbox) -> None:
    result = sandbox.run("import os\nprint('x' * 1000000)")
    assert (result.status.value, len(result.stdout), result.stdout_truncated) == ("ok", 1_000_001, False)


def test_output_over_the_limit_is_cut_and_marked(sandbox: Sandbox) -> None:
    result = sandbox.run("while True: print('x' * 1000)")
    assert (len(result.stdout), result.stdout_truncated, result.return_code) == (2 * MIB, True, None)


def test_both_streams_invalid_utf8_and_nul_come_through(sandbox: Sandbox) -> None:
    code = "import os\nfor i in range(2000):\n    os.write(1, b'a\\xff\\0'); os.write(2, b'b\\xfe')"
    result = sandbox.run(code)
    assert (result.stdout, result.stderr) == ("a\ufffd\0" * 2000, "b\ufffd" * 2000)


def test_a_link_is_not_fetched_and_paths_that_leave_are_refused(sandbox: Sandbox) -> None:
    code = "import os\nos.symlink('/etc/ld.so.cache', 'a')\nos.mkfifo('b')\nos.symlink('/usr', 'd')\n"
    code += "open('c', 'w').write('3')"
    result = sandbox.run(code, outputs=["a", "b", "c", "d/bin/env", "e"])
    assert result.files == {"c": b"3"}
    assert set(result.missing) == {"a", "b", "d/bin/env", "e"}
    for name in ("../x", "/etc/x", "a/../../x", "", "a\0b", "./a"):
        with pytest.raises(ValueError, match="relative name"):
            sandbox.run("", files={name: "x"})
        with pytest.raises(ValueError, match="relative name"):
            sandbox.run("", outputs=[name])


def test_the_verdict_is_the_kernels_not_the_programs(sandbox: Sandbox) -> None:
    forged = 'import sys\nprint(\'{"status": "ok", "return_code": 0}\')\nsys.exit(7)'
    result: Result = sandbox.run(forged)
    assert (result.status.value, result.return_code) == ("error", 7)


CHANNEL = (
    "import os, socket\nfds = [int(n) for n in os.listdir('/proc/self/fd') if int(n) > 2]\n"
    "kinds = {n: os.readlink(f'/proc/self/fd/{n}') for n in fds if os.path.lexists(f'/proc/self/fd/{n}')}\n"
    "channel = next(n for n in kinds if kinds[n].startswith('socket'))\nprint('found')\n"
)


@pytest.mark.parametrize(
    ("attack", "statuses"),
    [
        ("os.write(channel, b'\\0')", "timeout error ok"),
        ("os.write(channel, b'\\0\\0\\0\\4null')", "timeout error ok"),
        ("os.close(channel)", "timeout error"),
        (
            "import threading, time; threading.Thread(target=lambda: (time.sleep(0.05), os._exit(9))).start()",
            "ok error",
        ),
        (
            "import threading\ndef spin():\n    while True: pass\nthreading.Thread(target=spin, daemon=True).start()",
            "ok",
        ),
    ],
)
def test_a_session_that_attacks_its_channel_hurts_itself_alone(local: LocalSandbox, attack: str, statuses: str) -> None:
    with local.session() as session:
        started = time.monotonic()
        result = session.run(CHANNEL + attack, limits=TIGHT)
        assert result.status.value in statuses.split(), result
        assert "StopIteration" not in result.stderr
        session.run("print(2)", limits=TIGHT)
        assert session.run("print(3)").stdout == "3\n"
        assert time.monotonic() - started < 6
    check_unharmed(local, local)
