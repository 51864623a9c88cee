"""`trm sandbox`: what people and scripts see, and a server that ends all its programs when it is told to."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.envs.sandbox_support import needs_bubblewrap
from trm_agent.cli import main
from trm_envs.sandbox import Limits, LocalSandbox, Result, SandboxUnavailable, Status, shared_sandbox
from trm_envs.sandbox.fusion.sandbox import FusionSandbox

pytestmark = pytest.mark.slow


@pytest.fixture
def write(tmp_path: Path):
    def one(text: str | bytes, name: str = "program.py") -> str:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return one


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    command = [sys.executable, "-m", "trm_agent.cli", "sandbox", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving local at http://127.0.0.1:"), line
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.communicate()


@needs_bubblewrap
def test_a_program_that_ends_well_is_printed(write, capsys) -> None:
    assert main(["sandbox", "run", write("import sys\nprint('\u00e9')\nsys.stderr.write('low')")]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("\u00e9\n", "low")


@needs_bubblewrap
def test_json_is_one_object_with_the_five_keys(write, capsys) -> None:
    arguments = ["--timeout", "5", "--json", "--stdin", write("21\n", "in.txt")]
    assert main(["sandbox", "run", write("print(2 * int(input()))"), *arguments]) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert list(record) == ["status", "stdout", "stderr", "return_code", "duration_s"]
    assert 0 < record.pop("duration_s") < 5
    assert record == {"status": "ok", "stdout": "42\n", "stderr": "", "return_code": 0}
    assert err == ""


@needs_bubblewrap
@pytest.mark.parametrize(
    ("code", "arguments", "status", "return_code"),
    [
        ("import sys; sys.exit(3)", [], "error", 3),
        ("while True: pass", ["--timeout", "0.3"], "timeout", None),
        ("x = bytearray(100 << 20)", ["--memory-mb", "64"], "memory", 1),
        ("exit 4", ["--language", "bash"], "error", 4),
    ],
)
def test_a_program_that_does_not_end_well_exits_with_1(
    write, capsys, code: str, arguments: list[str], status: str, return_code: int | None
) -> None:
    path = write(code)
    assert main(["sandbox", "run", path, "--json", *arguments]) == 1
    record = json.loads(capsys.readouterr().out)
    assert (record["status"], record["return_code"]) == (status, return_code)
    assert main(["sandbox", "run", path, *arguments]) == 1
    assert f"trm sandbox run: {status}" in capsys.readouterr().err


@needs_bubblewrap
def test_a_shell_script_is_known_by_its_name(write, capsys) -> None:
    assert main(["sandbox", "run", write("echo $((6 * 7))", "x.sh")]) == 0
    assert capsys.readouterr().out == "42\n"


@needs_bubblewrap
def test_seconds_on_the_clock_are_not_cut_short_by_the_default_processor_time(write, monkeypatch) -> None:
    seen = []
    shared_sandbox("local")  # made before, as it runs a program itself
    monkeypatch.setattr(LocalSandbox, "run", lambda self, *a, limits=None, **k: seen.append(limits) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["sandbox", "run", write("1"), "--timeout", "60"])
    assert seen[-1].wall_s == 60
    assert seen[-1].cpu_s >= 60


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["/nowhere/x.py"], "No such file"),
        (["{program}", "--timeout", "0"], "--timeout: got 0.0; allowed: 0.01 to 86400"),
        (["{program}", "--timeout", "nan"], "--timeout: got nan"),
        (["{program}", "--memory-mb", "1"], "--memory-mb: got 1; allowed: 32"),
        (["{program}", "--stdin", "/nowhere/in"], "No such file"),
        (["{program}", "--sandbox", "nowhere"], "nowhere"),
        (["{latin}"], "not UTF-8"),
    ],
)
def test_bad_input_exits_with_2_and_one_line(write, capsys, arguments: list[str], words: str) -> None:
    paths = {"program": write("1"), "latin": write(b"# \xe9", "latin.py")}
    assert main(["sandbox", "run", *(argument.format(**paths) for argument in arguments)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err


def test_isolation_that_cannot_be_had_exits_with_2_and_the_remedy(write, capsys, monkeypatch) -> None:
    from trm_envs.sandbox import shared

    def refuse(name: str, pins: tuple[str, ...]) -> None:
        raise SandboxUnavailable("`bwrap` is not on PATH; apt-get install bubblewrap")

    monkeypatch.setattr(shared, "shared_sandbox", refuse)
    assert main(["sandbox", "run", write("1")]) == 2
    err = capsys.readouterr().err
    assert "apt-get install bubblewrap" in err
    assert "--sandbox unsafe" in err


def test_a_server_that_is_down_is_a_sandbox_error_and_exits_with_1(write, capsys) -> None:
    assert main(["sandbox", "run", write("1"), "--sandbox", "http://127.0.0.1:1", "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["status"] == "sandbox_error"
    assert "127.0.0.1:1" in err


def test_an_unsafe_sandbox_is_not_served_to_others(capsys) -> None:
    assert main(["sandbox", "serve", "--sandbox", "unsafe", "--host", "0.0.0.0", "--port", "0"]) == 2
    assert "pass --token-file, or bind 127.0.0.1" in capsys.readouterr().err


def children_of(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):  # it has just ended
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                for child in map(int, (thread / "children").read_text().split()):
                    found += [child, *children_of(child)]
    return found


@needs_bubblewrap
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_told_to_end_ends_every_program(number: int, write) -> None:
    token = ("--token", "hush") if number == signal.SIGINT else ("--token-file", write("hush\n", "token"))
    with serving("--max-concurrent", "2", "--verbose", *token) as (process, address):
        assert requests.get(f"{address}/v1/ping", timeout=5).status_code == 401
        sandbox = FusionSandbox(address.replace("://", "://:hush@"), retries=0)
        sandbox.ping()
        assert sandbox.run("print(1)").stdout == "1\n"
        idle = len(children_of(process.pid))
        code = "import os, time; os.fork(); time.sleep(60)"
        results: list[Result] = []
        asking = threading.Thread(target=lambda: results.append(sandbox.run(code, limits=Limits(wall_s=60))))
        asking.start()
        # the program's fork is in addition to what waits ahead of time
        while len(programs := children_of(process.pid)) <= idle:
            time.sleep(0.02)
        started = time.monotonic()
        process.send_signal(number)
        _, log = process.communicate(timeout=40)
        assert process.returncode == 0
        assert time.monotonic() - started < 15  # the program sleeps for a minute
        assert "Traceback" not in log
        assert "POST /run_code 200 ok" in log
        assert ("visible to everyone" if number == signal.SIGINT else "chmod 600") in log
        deadline = time.monotonic() + 30
        while (left := [pid for pid in programs if os.path.exists(f"/proc/{pid}/exe")]) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert left == []
        asking.join()
        assert results[0].status is Status.SANDBOX_ERROR
        sandbox.close()


@needs_bubblewrap
def test_a_port_that_is_taken_exits_with_2() -> None:
    with serving() as (process, address):
        assert process.stdout.readline() == "limits on requests and connections:\n"
        assert "head_s              5 s" in process.stdout.readline()
        command = [sys.executable, "-m", "trm_agent.cli", "sandbox", "serve", "--port", address.rpartition(":")[2]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "a port that is free on 127.0.0.1" in done.stderr


@pytest.mark.parametrize(
    ("host", "taken", "told"),
    [("127.0.0.1", True, "--port"), ("192.0.2.7", False, "--host"), ("no such host", False, "--host")],
)
def test_an_address_that_cannot_be_served_at_is_told_with_another_to_choose(host, taken, told, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1] if taken else 0
        words = f"sandbox serve --sandbox unsafe --port {port} --token {'t' * 32}"
        assert main([*words.split(), "--host", host]) == 2
    error = capsys.readouterr().err
    assert f"error: {told}: got " in error
    assert f"choose {told}" in error
