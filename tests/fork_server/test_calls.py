"""A function is called in a fork of the server: result, exception, output and environment are as if it ran here."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.fork_server.test_fork_server import SERVER, start, wait_for
from tests.fork_server.test_processes import ends
from trm_agent.fork_server import handle, wire
from trm_agent.fork_server.calls import apart
from trm_agent.fork_server.client import NEEDS_ALL, SOCKET_VARIABLE

CALLED = """
import os, signal, sys, time

def work(number):
    os.environ["SET_THERE"] = "1"
    del os.environ["GONE_THERE"]
    print("printed there")
    return number + 1, os.getpid(), os.getsid(0) == os.getpid(), "wave" in sys.modules

def refuse(number):
    os.environ["SET_BEFORE_A_REFUSAL"] = "1"
    raise ValueError(f"got {number}")

class Own(Exception):
    def __init__(self, one, two):
        super().__init__(one)

def fail_in_its_own_way(number):
    raise Own(number, number)

def leave(number):
    sys.exit("a plugin")

def unsendable(number):
    return lambda: number

def die(number):
    os.kill(os.getpid(), signal.SIGKILL)

def leave_a_process(seconds):
    if (child := os.fork()) == 0:
        time.sleep(seconds)
        os._exit(0)
    return child

def wait(path):
    open(path, "w").write(str(os.getpid()))
    time.sleep(60)
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen]:
    (tmp_path / "called.py").write_text(CALLED)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "called", raising=False)
    process, address = start(tmp_path, '("wave", "numpy")')
    wait_for(address)
    monkeypatch.setenv(SOCKET_VARIABLE, address)
    monkeypatch.setattr(handle, "is_serving", lambda: True)
    yield process
    process.kill()


def test_a_call_is_made_in_a_fork_as_if_it_were_made_here(
    server: subprocess.Popen, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import called

    monkeypatch.setenv("GONE_THERE", "1")
    monkeypatch.setenv("SET_THERE", "0")
    monkeypatch.setenv("SET_BEFORE_A_REFUSAL", "0")
    answer, pid, has_session, is_preloaded = apart(called.work, 4)
    assert (answer, has_session, is_preloaded) == (5, True, True)
    assert pid != os.getpid()
    assert (os.environ["SET_THERE"], "GONE_THERE" in os.environ) == ("1", False)
    assert capfd.readouterr().out == "printed there\n"
    with pytest.raises(ValueError, match="got 3") as refused:
        apart(called.refuse, 3)
    assert "in refuse" in str(refused.value.__cause__)
    assert os.environ["SET_BEFORE_A_REFUSAL"] == "1"
    with pytest.raises(RuntimeError, match="Own: 3") as failed:
        apart(called.fail_in_its_own_way, 3)
    assert "in fail_in_its_own_way" in str(failed.value.__cause__)
    with pytest.raises(SystemExit, match="a plugin"):
        apart(called.leave, 3)
    with pytest.raises(RuntimeError, match="pickle"):
        apart(called.unsendable, 3)
    with pytest.raises(RuntimeError, match=r"ended without an answer, .*\(die\)"):
        apart(called.die, 3)
    # the server lives
    monkeypatch.setenv("GONE_THERE", "1")
    assert apart(called.work, 1)[0] == 2


def test_a_server_that_refuses_is_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lives on until it has a log, and its socket may be gone before anybody has looked."""
    refusing = handle._Server(SimpleNamespace(poll=lambda: None), io.BytesIO(), tmp_path, {})
    monkeypatch.setattr(handle, "_SERVERS", [refusing])
    monkeypatch.setenv(SOCKET_VARIABLE, str(tmp_path / "fork_server"))
    (tmp_path / "fork_server").touch()
    assert not handle.is_serving()


def test_a_call_that_leaves_a_process_holds_nobody_up(server: subprocess.Popen) -> None:
    import called

    started = time.monotonic()
    left = apart(called.leave_a_process, 20)
    assert time.monotonic() - started < 10
    os.kill(left, signal.SIGKILL)


def test_who_waits_no_more_gets_no_worker(tmp_path: Path) -> None:
    """A client that gives up starts its worker itself: a fork besides would be a second one."""
    gate = f"while not pathlib.Path({str(tmp_path / 'go')!r}).exists(): time.sleep(0.01)"
    (tmp_path / "gated.py").write_text(f"import pathlib, time\n{gate}\n")
    worker = tmp_path / "worker.py"
    worker.write_text(f"import os; open({str(tmp_path)!r} + '/' + os.environ['WHO'], 'w')")
    server, address = start(tmp_path, '("numpy", "gated")')
    wait_for(address)
    with asked(address, worker, {"WHO": "gone"}):
        pass
    with asked(address, worker, {"WHO": "there"}) as waiting:
        (tmp_path / "go").touch()
        waiting.settimeout(20)
        assert waiting.recv(1) == b"1"
    wait_for(str(tmp_path / "there"))
    assert not (tmp_path / "gone").exists()
    server.kill()


def test_without_a_server_and_with_one_that_has_ended_a_call_is_made_here(
    server: subprocess.Popen, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import called

    server.kill()
    server.wait(10)
    monkeypatch.setenv("GONE_THERE", "1")
    assert apart(called.work, 4)[1] == os.getpid()
    assert "this process goes on without it" in capfd.readouterr().err
    monkeypatch.setattr(handle, "is_serving", lambda: False)
    monkeypatch.setenv("GONE_THERE", "1")
    assert apart(called.work, 4)[1] == os.getpid()
    assert capfd.readouterr().err == ""


def test_a_call_ends_with_the_process_that_made_it(server: subprocess.Popen, tmp_path: Path) -> None:
    code = "import called; from trm_agent.fork_server import calls, handle; handle.is_serving = lambda: True\n"
    code += f"calls.apart(called.wait, {str(tmp_path / 'pid')!r})"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    caller = subprocess.Popen([sys.executable, "-c", code], env=env)
    wait_for(str(tmp_path / "pid"))
    time.sleep(0.1)
    caller.kill()
    caller.wait(10)
    assert ends(int((tmp_path / "pid").read_text()))


def test_a_request_is_served_as_soon_as_its_imports_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("first", "second", "third"):
        gate = f"while not pathlib.Path({str(tmp_path / f'go {name}')!r}).exists(): time.sleep(0.01)"
        (tmp_path / f"{name}.py").write_text(f"import pathlib, time\n{gate}\n")
    (tmp_path / "called.py").write_text(
        "import gc, sys\ndef loaded():\n"
        "    return [name for name in ('first', 'second', 'third') if name in sys.modules] + ['gc'] * gc.isenabled()"
    )
    worker = tmp_path / "worker.py"
    worker.write_text("import called; print(called.loaded())")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "called", raising=False)
    import called

    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    code += SERVER.replace("{preload}", "('numpy', 'first', 'second', 'third')")
    code = code.replace("server.main", "server.WORKERS_AFTER = 'second'\nserver.main")
    address = str(tmp_path / "socket")
    server = subprocess.Popen([sys.executable, "-c", code, address], stdin=subprocess.PIPE)
    try:
        wait_for(address)
        monkeypatch.setenv(SOCKET_VARIABLE, address)
        monkeypatch.setattr(handle, "is_serving", lambda: True)
        with ExitStack() as stack:
            all_of_it = stack.enter_context(asked(address, worker, {NEEDS_ALL: "1"}))
            early = stack.enter_context(asked(address, worker, {}))
            # a call that names no import waits for all of them, and harms nobody
            unnamed, theirs = stack.enter_context(asking(address)), socket.socketpair()
            wire.send(unnamed, [], dict(os.environ), [theirs[0].fileno()])
            (tmp_path / "go first").touch()
            assert apart(called.loaded, needs="first") == ["first", "gc"]
            (tmp_path / "go second").touch()
            assert early.recv(1) == b"1"
            all_of_it.settimeout(0.1)
            with pytest.raises(TimeoutError):
                all_of_it.recv(1)
            (tmp_path / "go third").touch()
            all_of_it.settimeout(20)
            assert all_of_it.recv(1) == unnamed.recv(1) == b"1"
            for end in theirs:
                end.close()
        assert server.stdin is not None
        server.stdin.close()
        assert server.wait(20) == 0
        deadline, out = time.monotonic() + 20, ""
        while out.count("\n") < 3:
            assert time.monotonic() < deadline
            out += capfd.readouterr().out
            time.sleep(0.01)
    finally:
        server.kill()
    said = [line for line in out.splitlines() if line.startswith("[")]
    assert sorted(said) == ["['first', 'second', 'gc']", "['first', 'second', 'third', 'gc']"]


def asked(address: str, worker: Path, env: dict[str, str]) -> socket.socket:
    """A connection over which a worker has been asked for."""
    connection = asking(address)
    wire.send(connection, [str(worker)], {**os.environ, **env})
    return connection


def asking(address: str) -> socket.socket:
    """A connection to a server."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(20)
    connection.connect(address)
    return connection
