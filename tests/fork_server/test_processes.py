"""A process of multiprocessing is a fork of the server: arguments, threads, exit code, and an end with its asker."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fork_server.test_fork_server import start, wait_for
from trm_agent.fork_server import processes
from trm_agent.fork_server.client import SOCKET_VARIABLE

ASKER = """
import json, os, sys, time
from trm_agent.fork_server import processes

def say(queue, connection, number):
    import setproctitle
    setproctitle.setproctitle("named")
    title = open("/proc/self/cmdline").read().rstrip("\\0")
    noted = sys.modules["torch"].noted
    connection.send([number, os.getppid(), os.environ["OMP_NUM_THREADS"], "wave" in sys.modules, title, noted])
    assert queue.get(timeout=20) == "go on"
    sys.exit(number)

def wait(connection):
    connection.send(os.getpid())
    time.sleep(60)

def started(context, target, *arguments):
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(*arguments[:1], theirs, *arguments[1:]), daemon=True)
    process.start()
    theirs.close()
    return process, ours.recv()

if __name__ == "__main__":
    context = processes.context()
    queue = context.Queue()
    process, said = started(context, say, queue, 5)
    alive = process.is_alive()
    queue.put("go on")
    process.join(20)
    killed, pid = started(context, wait)
    known = pid == killed.pid
    killed.kill()
    killed.join(20)
    left, _ = started(context, wait)
    # the queue's thread would keep this process
    print(json.dumps([said, alive, process.exitcode, known, killed.exitcode, left.pid]), flush=True)
    os._exit(0)
"""


def ends(pid: int) -> bool:
    """True as soon as a process has ended; False after ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(") ")[2].startswith("Z"):
            return True
        time.sleep(0.05)
    return False


def test_a_process_is_a_fork_of_the_server_and_ends_with_the_one_that_asked(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("noted = []\nset_num_threads = noted.append")
    server, address = start(tmp_path, '("wave", "torch")')
    wait_for(address)
    script = tmp_path / "asker.py"
    script.write_text(ASKER)
    env = {**os.environ, SOCKET_VARIABLE: address, "OMP_NUM_THREADS": "3"}
    asked = subprocess.run([sys.executable, script], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert asked.returncode == 0, asked.stderr
    said, alive, code, known, killed, left = json.loads(asked.stdout)
    assert said == [5, server.pid, "3", True, "named", [3]]
    # 255 is the standard library's exit code of a process whose own was never told
    assert (alive, code, known, killed) == (True, 5, True, 255)
    assert ends(left)
    assert server.stdin is not None
    server.stdin.close()
    assert server.wait(timeout=10) == 0


def test_without_a_server_there_is_no_context_and_one_that_should_be_there_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(SOCKET_VARIABLE, raising=False)
    assert processes.context() is None
    assert capsys.readouterr().err == ""
    # it has ended, or refused to fork
    monkeypatch.setenv(SOCKET_VARIABLE, str(tmp_path / "gone"))
    assert processes.context() is None
    assert f"fork server at {tmp_path / 'gone'}: " in capsys.readouterr().err
    # it was killed, and nobody took its socket away
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "left"))
    monkeypatch.setenv(SOCKET_VARIABLE, str(tmp_path / "left"))
    assert processes.context() is None
