"""The client speaks Ray's command line; the server forks a worker with the client's environment, folder and streams."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from trm_agent.fork_server import handle
from trm_agent.fork_server.client import SOCKET_VARIABLE, parse

HERE = Path(__file__).resolve().parents[2] / "trm_agent" / "fork_server"
SERVER = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import server
server.PRELOAD = {{preload}}
server.main()
"""
WORKER = """
import gc, json, os, sys
said = {"argv": sys.argv[1:], "x": os.environ.get("X"), "cwd": os.getcwd(), "parent": os.getppid(), "main": __name__}
said |= {"preloaded": "wave" in sys.modules, "collects": gc.isenabled(), "frozen": gc.get_freeze_count() > 0}
print(json.dumps(said))
print("to stderr", file=sys.stderr)
sys.exit(3)
"""


def start(tmp_path: Path, preload: str = '("wave",)', out: Any = subprocess.PIPE) -> tuple[subprocess.Popen, str]:
    address = str(tmp_path / "socket")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})" + SERVER.replace("{preload}", preload)
    errors = None if out == subprocess.PIPE else out
    command = [sys.executable, "-c", code, address]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=errors, text=True), address


def ask(address: str, *arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess:
    """Run the client; its pipes close only when the forked worker has ended too."""
    return subprocess.run(
        [sys.executable, str(HERE / "client.py"), *arguments],
        env={"TRM_AGENT_FORK_SERVER": address, "PATH": "/usr/bin", **env},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=30,
    )


def wait_for(path: str, gone: bool = False) -> None:
    deadline = time.monotonic() + 20
    while Path(path).is_socket() if gone else not Path(path).exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_rays_arguments_are_split() -> None:
    context = json.dumps({"env_vars": {"A": "1"}})
    arguments = [
        f"--serialized-runtime-env-context={context}",
        "--language=PYTHON",
        "default_worker.py",
        "--startup-token=3",
    ]
    assert parse(arguments) == ({"env_vars": {"A": "1"}}, "PYTHON", ["default_worker.py", "--startup-token=3"])
    assert parse(["--serialized-runtime-env-context", "{}", "worker.py"]) == ({}, "PYTHON", ["worker.py"])


def test_a_worker_is_a_fork_with_the_clients_environment_and_streams_and_its_death_is_told(tmp_path: Path) -> None:
    server, address = start(tmp_path)
    wait_for(address)
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    context = json.dumps({"env_vars": {"X": "from the runtime environment"}})
    done = ask(
        address,
        f"--serialized-runtime-env-context={context}",
        "--language=PYTHON",
        str(worker),
        "--token=7",
        cwd=tmp_path,
    )
    said = json.loads(done.stdout)
    assert said == {
        "argv": ["--token=7"],
        "x": "from the runtime environment",
        "cwd": str(tmp_path),
        "preloaded": True,
        "parent": server.pid,
        "main": "__main__",
        "collects": True,
        "frozen": True,
    }
    assert done.stderr == "to stderr\n"
    # a worker that a signal killed is told, one that left by itself is not
    worker.write_text("import os; print(os.getpid(), flush=True); os.kill(os.getpid(), 9)")
    killed = ask(address, str(worker), cwd=tmp_path).stdout.strip()
    assert server.stdout is not None
    assert "imports took" in server.stdout.readline()
    assert server.stdout.readline() == f"fork server: worker {killed} was killed by signal 9 (SIGKILL)\n"
    # the driver is gone: so is the server, and its socket
    assert server.stdin is not None
    server.stdin.close()
    assert server.wait(timeout=10) == 0
    assert not Path(address).exists()
    assert tmp_path.exists(), "a folder that holds more is not the server's own"


@pytest.mark.parametrize("when", ["before", "after", "never"])
def test_the_server_refuses_to_fork_with_threads_and_says_so_in_the_log(tmp_path: Path, when: str) -> None:
    (tmp_path / "threaded.py").write_text(
        "import pathlib, threading, time\n"
        f"while not pathlib.Path({str(tmp_path / 'go')!r}).exists(): time.sleep(0.01)\n"
        "threading.Thread(target=time.sleep, args=(30,), daemon=True).start()\n"
    )
    with (tmp_path / "out").open("w+") as out:
        server, address = start(tmp_path, '("threaded",)', out)
        wait_for(address)
        assert server.stdin is not None
        if when == "before":
            server.stdin.write(f"{tmp_path / 'log.txt'}\n")
            server.stdin.flush()
        (tmp_path / "go").touch()
        wait_for(address, gone=True)
        if when == "after":
            server.stdin.write(f"{tmp_path / 'log.txt'}\n")
        server.stdin.close()
        assert server.wait(timeout=10) == 0
    told = tmp_path / ("out" if when == "never" else "log.txt")
    assert "refusing to fork" in told.read_text()
    assert (tmp_path / "out").stat().st_size == 0 or when == "never"


def test_a_server_whose_driver_is_gone_imports_no_more_and_takes_its_socket_away(tmp_path: Path) -> None:
    slow = "import pathlib, time\npathlib.Path({began!r}).touch()\n"
    slow += "while not pathlib.Path({go!r}).exists(): time.sleep(0.01)"
    for name in ("first", "second"):
        code = slow.format(began=str(tmp_path / f"{name} began"), go=str(tmp_path / "go"))
        (tmp_path / f"{name}.py").write_text(code)
    server, address = start(tmp_path, '("first", "second")')
    wait_for(str(tmp_path / "first began"))
    assert server.stdin is not None
    server.stdin.close()
    (tmp_path / "go").touch()
    assert server.wait(timeout=10) == 0
    assert not (tmp_path / "second began").exists()
    assert not Path(address).exists()


def test_a_server_that_fails_ends_with_status_1_and_says_why(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w+") as out:
        server, address = start(tmp_path, "()", out)
        wait_for(address)
        assert server.stdin is not None
        server.stdin.write(f"{tmp_path / 'no folder' / 'log.txt'}\n")
        server.stdin.flush()
        assert server.wait(timeout=10) == 1
    assert "FileNotFoundError" in (tmp_path / "out").read_text()
    assert not Path(address).exists()


def test_rays_core_reads_its_settings_after_the_fork_and_another_job_starts_the_usual_way(tmp_path: Path) -> None:
    (tmp_path / "ray" / "_private" / "workers").mkdir(parents=True)
    for name in ("__init__", "_private/__init__", "_private/workers/__init__"):
        (tmp_path / "ray" / f"{name}.py").touch()
    (tmp_path / "ray" / "_private" / "workers" / "setup_worker.py").write_text("print('the usual way')")
    (tmp_path / "ray" / "_raylet.py").write_text(
        "import os\nclass Config:\n    mode = None\n    @classmethod\n"
        "    def initialize(cls, config):\n        assert config == ''\n"
        "        cls.mode = os.environ['RAY_AUTH_MODE']\n"
    )
    worker = tmp_path / "worker.py"
    worker.write_text("import sys; print('a fork', sys.modules['ray._raylet'].Config.mode)")
    address = str(tmp_path / "socket")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})" + SERVER.replace("{preload}", '("ray._raylet",)')
    env = {**os.environ, "RAY_JOB_ID": "01000000"}
    server = subprocess.Popen([sys.executable, "-c", code, address], stdin=subprocess.PIPE, env=env)
    wait_for(address)
    for job, how in (("01000000", "a fork token"), ("02000000", "the usual way"), ("01000000", "a fork token")):
        own = {"RAY_JOB_ID": job, "RAY_AUTH_MODE": "token", "PYTHONPATH": str(tmp_path)}
        assert ask(address, "--language=PYTHON", str(worker), cwd=tmp_path, **own).stdout == f"{how}\n"
    assert server.stdin is not None
    server.stdin.close()
    assert server.wait(timeout=10) == 0


def test_a_server_that_imports_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wire.py").write_text("import time; time.sleep(60)")
    (tmp_path / "server.py").write_text("import wire")
    monkeypatch.setattr(handle, "_HERE", tmp_path)
    monkeypatch.setenv(SOCKET_VARIABLE, "")
    handle.start(tmp_path / "log.txt")
    process = handle._SERVERS[0].process
    handle.stop()
    assert process.returncode == -9
    handle.stop()
    assert handle._SERVERS == []


def test_a_second_run_of_a_process_goes_on_in_its_own_log_and_a_server_that_crashed_is_told_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handle, "_HERE", tmp_path)
    monkeypatch.setenv(SOCKET_VARIABLE, "")
    hears = f"import sys; sys.path.insert(0, {str(HERE)!r}); import server; print('early')\n"
    hears += "while server.hear_driver(): print('heard', flush=True)"
    (tmp_path / "server.py").write_text(hears)
    logs = [tmp_path / f"log{number}.txt" for number in range(4)]
    for log in logs[:2]:
        handle.start(log)
        deadline = time.monotonic() + 10
        while not log.exists() or "heard" not in log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert [log.read_text() for log in logs[:2]] == ["early\nheard\n", "heard\n"]
    handle.stop()
    # it crashes after it was told the log, and before it could look
    crashes = "import os, select; print('last', flush=True); select.select([0], [], []); os.kill(os.getpid(), 9)"
    (tmp_path / "server.py").write_text(crashes)
    handle.start(logs[2])
    process = handle._SERVERS[0].process
    process.wait(10)
    (tmp_path / "server.py").write_text(hears)
    handle.start(logs[3])
    assert logs[2].read_text() == "last\n"
    assert [server.process is process for server in handle._SERVERS] == [False]
    handle.stop()


@pytest.mark.slow
@pytest.mark.parametrize("address", ["", "/nonexistent/socket"])
def test_without_a_server_ray_starts_the_worker_itself(tmp_path: Path, address: str) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    done = ask(address, "--serialized-runtime-env-context={}", "--language=PYTHON", str(worker), cwd=tmp_path)
    assert done.returncode == 3
    assert json.loads(done.stdout)["preloaded"] is False
