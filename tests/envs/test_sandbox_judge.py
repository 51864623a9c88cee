"""Nobody touches the supervisor, PID 1 of a call."""

import ast
import contextlib
import dataclasses
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.envs.sandbox_support import TIGHT, needs_bubblewrap
from trm_envs.sandbox import LocalSandbox, Status
from trm_envs.sandbox.local import bubblewrap

pytestmark = [pytest.mark.slow, needs_bubblewrap]


@pytest.fixture
def sandbox() -> Iterator[LocalSandbox]:
    with LocalSandbox(dataclasses.replace(TIGHT, wall_s=10.0)) as made:
        yield made


def test_a_cell_that_is_given_up_returns_at_once(sandbox: LocalSandbox) -> None:
    # poll looks a descriptor's number up again when it is woken: that number must not be another socket's by then
    with ThreadPoolExecutor(1) as threads, contextlib.ExitStack() as opened:
        for _ in range(40):
            session = sandbox.session()
            assert session.run("import time").ok
            cell = threads.submit(session.run, "time.sleep(60)")
            while not (session._work._is_asking or cell.done()):
                time.sleep(0.001)
            time.sleep(0.01)
            session.close()
            for end in socket.socketpair():
                opened.enter_context(end)
            assert cell.result(5).status is Status.SANDBOX_ERROR


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
        f"try:\n    {attack}\n    print('reached')\nexcept (PermissionError, FileNotFoundError):\n"
        "    print('refused')\nraise SystemExit(3)"
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


@pytest.mark.parametrize("session", [False, True])
def test_a_program_has_no_privilege_and_can_gain_none(sandbox: LocalSandbox, session: bool) -> None:
    code = "print(dict(line.split(':\\t') for line in open('/proc/self/status').read().splitlines() if ':\\t' in line))"
    with sandbox.session() as opened:
        status = ast.literal_eval((opened if session else sandbox).run(code).stdout)
    assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


@pytest.mark.parametrize("error", ["IndexError", "OSError", "UnicodeDecodeError('utf-8', b'', 0, 0, '')"])
def test_a_program_that_upsets_its_supervisor_fails_and_others_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    guest = tmp_path / "guest"
    shutil.copytree(str(bubblewrap.resources.files("trm_envs.sandbox.guest")), guest)
    with (guest / "process.py").open("a") as file:
        file.write("_whole = Program.overreaches\n")
        file.write("def _upset(self, proc, **how):\n")
        file.write(f"    if len(rest.processes(proc)) > 1: raise {error}\n")
        file.write("    return _whole(self, proc, **how)\n")
        file.write("Program.overreaches = _upset\n")
    monkeypatch.setattr(bubblewrap.resources, "files", lambda _: guest)
    upset = "import os, time\nos.fork() or time.sleep(9)\ntime.sleep(9)"
    with LocalSandbox(dataclasses.replace(TIGHT, wall_s=10.0)) as sandbox, sandbox.session() as session:
        result = sandbox.run(upset)
        assert (result.status, result.return_code) == (Status.ERROR, -9), result
        result = session.run("import os, time\nif os.fork() == 0: time.sleep(9)")
        assert (result.status, result.return_code, result.state_lost) == (Status.ERROR, -9, True), result
        assert session.run("print(1)").stdout == sandbox.run("print(1)").stdout == "1\n"
