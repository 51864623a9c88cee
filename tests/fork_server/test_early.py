"""A fork server that starts before the configuration and its log are known."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trm_agent.fork_server import handle
from trm_agent.fork_server.client import SOCKET_VARIABLE

HERE = Path(handle.__file__).parent


def test_a_server_that_starts_early_tells_its_log_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # this process may have loaded torch already
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(handle, "_HERE", tmp_path)
    monkeypatch.setenv(SOCKET_VARIABLE, "")
    log, said = tmp_path / "log.txt", "import sys; print('said early', flush=True); "
    for script, told in (
        (said + f"sys.path.insert(0, {str(HERE)!r}); import server; server.hear_driver(); print('said late')", "late"),
        (said + "sys.stdin.close()", "early"),
    ):
        (tmp_path / "server.py").write_text(script)
        handle.start_at_once({})
        process = handle._SERVERS[0].process
        if told == "early":
            process.wait(10)
        assert not log.exists()
        handle.start(log)
        process.wait(10)
        # all is told once
        handle.tell_ended()
        handle.tell_ended()
        lines = log.read_text().splitlines()
        assert lines == ["said early", "said late"][: 1 + (told == "late")]
        handle.stop()
        log.unlink()


def test_a_server_that_started_at_once_is_kept_if_its_imports_read_what_the_run_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(handle, "_HERE", tmp_path)
    for name, value in ((SOCKET_VARIABLE, ""), ("OMP_NUM_THREADS", "7"), ("TRM_TEST_OTHER", "1")):
        monkeypatch.setenv(name, value)
    (tmp_path / "server.py").write_text(
        "import os, sys; print(os.environ['OMP_NUM_THREADS'], flush=True); sys.stdin.read()"
    )

    def served() -> subprocess.Popen:
        (server,) = handle._SERVERS
        assert Path(os.environ[SOCKET_VARIABLE]).parent == server.folder
        while not (said := os.pread(server.out.fileno(), 9, 0)).endswith(b"\n"):
            time.sleep(0.01)
        assert said.decode() == server.env["OMP_NUM_THREADS"] + "\n"
        return server.process

    handle.start_at_once({"OMP_NUM_THREADS": "2"})
    assert os.environ["OMP_NUM_THREADS"] == "7"
    at_once, names = served(), ["OMP_NUM_THREADS"]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    # one that the imports do not read
    monkeypatch.setenv("TRM_TEST_OTHER", "2")
    handle.start_early(True, names)
    assert served() is at_once
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    handle.start_early(True, names)
    early = served()
    assert at_once.returncode == -9
    monkeypatch.delenv("OMP_NUM_THREADS")
    folder = handle._SERVERS[0].folder
    handle.start_early(False, names)
    assert handle._SERVERS == []
    assert early.returncode == -9
    assert not folder.exists()
    # a rollout server that finds it would take itself for one on a CPU
    assert SOCKET_VARIABLE not in os.environ
    # one that the run does not set, in an environment that had been expected to set it
    handle.start_at_once({"OMP_NUM_THREADS": "2", "TRM_TEST_OTHER": "3"})
    expecting = served()
    handle.start_at_once({"OMP_NUM_THREADS": "2"})
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    handle.start_early(True, names)
    assert served() is not expecting
    handle.stop()
    # what has done the imports does not wait for them
    monkeypatch.setitem(sys.modules, "torch", sys)
    handle.start_early(True, names)
    handle.start_at_once({})
    assert handle._SERVERS == []
