"""The HTTP backend: what it makes of a server's answers, and of servers that are down, slow or talk nonsense."""

import asyncio
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.envs.fusion_support import FakeServer, answer, running_server
from tests.envs.sandbox_support import needs_bubblewrap
from trm_envs.sandbox import Limits, LocalSandbox, Result, SandboxUnavailable, Status
from trm_envs.sandbox.fusion import poster as fusion_http
from trm_envs.sandbox.fusion.sandbox import FusionSandbox

FAST = Limits(wall_s=5, memory_bytes=1 << 28)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusion_http, "FIRST_PAUSE_S", 0.01)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[FusionSandbox]:
    with (
        LocalSandbox(FAST, max_concurrent=4) as local,
        running_server(local) as address,
        FusionSandbox(address, limits=FAST) as made,
    ):
        yield made


def run_against(*replies: Any, code: str = "1", **arguments: Any) -> tuple[Result, FakeServer]:
    with FakeServer(*replies) as fake, FusionSandbox(fake.address, limits=FAST) as sandbox:
        return sandbox.run(code, **arguments), fake


def command(**fields: Any) -> dict[str, Any]:
    return {"status": "Finished", "return_code": 0, "stdout": "", "stderr": "", "execution_time": 0.1, **fields}


@needs_bubblewrap
def test_a_program_reads_stdin_and_files_and_leaves_files(sandbox: FusionSandbox) -> None:
    code = "import sub.mod, sys\nsys.stdout.write(input() + str(sub.mod.x))\nopen('out', 'wb').write(b'\\xff')"
    result = sandbox.run(code, stdin=b"\xe9\xff\n", files={"sub/mod.py": "x = 1"}, outputs=["out", "absent"])
    assert (result.status, result.return_code, result.message) == (Status.OK, 0, "")
    assert result.stdout == "\ufffd\ufffd1"
    assert result.files == {"out": b"\xff"}
    assert result.missing == {"absent": "No such file or directory"}


@pytest.mark.slow
@needs_bubblewrap
def test_every_limit_holds_over_http(sandbox: FusionSandbox) -> None:
    limits = Limits(wall_s=5, processes=3, output_bytes=1000, file_bytes=1 << 12, disk_bytes=1 << 20, num_files=40)
    long = sandbox.run("print('x' * 5000)", limits=limits)
    assert (long.status, len(long.stdout), long.stdout_truncated) == (Status.OUTPUT_LIMIT, 1000, True)
    many = "import os\nfor i in range(99): open(f'f{i}', 'w').close()"
    assert "No space left" in sandbox.run(many, limits=limits).stderr
    assert sandbox.run("x = bytearray(200 << 20)", limits=Limits(memory_bytes=1 << 27)).status is Status.MEMORY
    assert sandbox.run("while True: pass", limits=Limits(wall_s=30, cpu_s=1)).status is Status.TIMEOUT


@pytest.mark.parametrize(
    ("fields", "status", "return_code"),
    [
        ({}, Status.OK, 0),
        ({"status": "Failed", "run_result": command(return_code=3)}, Status.ERROR, 3),
        ({"status": "Failed", "run_result": command(return_code=-11)}, Status.ERROR, -11),
        ({"status": "Failed", "run_result": command(status="TimeLimitExceeded", return_code=None)}, "timeout", None),
        ({"status": "Failed", "run_result": command(return_code=1, stderr="...\nMemoryError\n")}, Status.MEMORY, 1),
        ({"status": "Failed", "run_result": None, "compile_result": command(return_code=2)}, Status.ERROR, 2),
        ({"status": "SandboxError", "message": "no pod"}, Status.SANDBOX_ERROR, None),
        ({"status": "Failed", "run_result": command(status="Error", stderr="no fork")}, Status.SANDBOX_ERROR, None),
        # contradictions are nobody's verdict
        ({"status": "Success", "run_result": None}, Status.SANDBOX_ERROR, None),
        ({"status": "Success", "run_result": command(return_code=1)}, Status.SANDBOX_ERROR, None),
        ({"status": "Success", "run_result": command(status="TimeLimitExceeded")}, Status.SANDBOX_ERROR, None),
        ({"status": "Success", "run_result": command(return_code=None)}, Status.SANDBOX_ERROR, None),
        ({"status": "Failed"}, Status.SANDBOX_ERROR, None),
        ({"status": "Accepted"}, Status.SANDBOX_ERROR, None),
        ({"run_result": command(execution_time=float("nan"))}, Status.SANDBOX_ERROR, None),
        ({"trm": {"status": "error"}}, Status.SANDBOX_ERROR, None),
    ],
)
def test_a_foreign_servers_answer_becomes_our_status(fields: dict, status: Status, return_code: int | None) -> None:
    result, _ = run_against(answer(**fields))
    assert (result.status, result.return_code) == (status, return_code)
    assert bool(result.message) == (result.status is Status.SANDBOX_ERROR)


def test_the_request_is_the_published_clients_with_the_memory_limit() -> None:
    _, fake = run_against(answer(), code="print(1)", stdin="in", files={"a": b"\x00"}, outputs=["b"])
    path, body = fake.asked[0]
    assert path == "/run_code"
    assert body.pop("trm_limits")["processes"] == FAST.processes
    assert body == {
        "code": "print(1)",
        "language": "python",
        "stdin": "in",
        "files": {"a": "AA=="},
        "fetch_files": ["b"],
        "run_timeout": 5.0,
        "compile_timeout": 5.0,
        "memory_limit_MB": 256,
    }


def test_a_foreign_servers_files_and_output_are_held_to_the_limits() -> None:
    files = {"a": "QUI=", "big": "A" * 8192}
    limits = Limits(output_bytes=100, file_bytes=1 << 12)
    reply = answer(files=files, run_result=command(stdout="x" * 101))
    result, _ = run_against(reply, outputs=["a", "big", "c"], limits=limits)
    assert result.files == {"a": b"AB"}
    assert result.missing == {"big": "6144 bytes, at most 4096 are fetched", "c": "the server did not return it"}
    assert (result.status, len(result.stdout), result.stdout_truncated) == (Status.OUTPUT_LIMIT, 100, True)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"\xff\xfe", b"[]", b"{}", b"null", b"[" * 100_000, answer(files={"a": "?"})[1]],
)
def test_junk_is_a_sandbox_error_and_not_asked_for_again(body: bytes) -> None:
    result, fake = run_against((200, body), outputs=["a"])
    assert result.status is Status.SANDBOX_ERROR
    assert "malformed answer" in result.message
    assert len(fake.asked) == 1


def test_an_endless_answer_is_cut_off() -> None:
    result, _ = run_against((200, b" " * (3 << 20)), limits=Limits(output_bytes=1000))
    assert (result.status, "an answer of over" in result.message) == (Status.SANDBOX_ERROR, True)


def test_a_program_that_a_server_lets_print_without_end_has_printed_too_much() -> None:
    result, fake = run_against(answer(run_result=command(stdout="x" * (3 << 20))), limits=Limits(output_bytes=1000))
    assert (result.status, result.ok, len(fake.asked)) == (Status.OUTPUT_LIMIT, False, 1)
    refusal, _ = run_against((500, b"x" * (3 << 20)), limits=Limits(output_bytes=1000))
    assert refusal.status is Status.SANDBOX_ERROR


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_a_server_that_recovers_is_asked_again(code: int) -> None:
    result, fake = run_against((code, b"busy"), answer())
    assert (result.status, result.stdout, len(fake.asked)) == (Status.OK, "ok\n", 2)


def test_a_sandbox_error_of_the_server_is_asked_again() -> None:
    result, fake = run_against(answer(status="SandboxError", message="evicted", run_result=None), answer())
    assert (result.status, len(fake.asked)) == (Status.OK, 2)


@pytest.mark.parametrize("code", [301, 400, 401, 404, 422])
def test_a_refused_request_is_not_asked_again(code: int) -> None:
    result, fake = run_against((code, b'{"detail": "the field"}'), answer())
    assert (result.status, len(fake.asked)) == (Status.SANDBOX_ERROR, 1)
    assert f"HTTP {code}: " in result.message
    assert "the field" in result.message


def test_a_programs_failure_is_not_asked_again() -> None:
    _, fake = run_against(answer(status="Failed", run_result=command(return_code=1)), answer())
    assert len(fake.asked) == 1


def test_retries_end() -> None:
    result, fake = run_against((503, b"busy"))
    assert (result.status, len(fake.asked)) == (Status.SANDBOX_ERROR, 3)


def test_a_slow_server_ends_at_the_deadline_and_is_not_asked_again() -> None:
    is_over = threading.Event()
    late = FakeServer(lambda body: (is_over.wait(20), answer())[1])
    with late as fake, FusionSandbox(fake.address, margin_s=0.2) as sandbox:
        started = time.monotonic()
        result = sandbox.run("1", limits=Limits(wall_s=0.1))
        assert time.monotonic() - started < 10
        is_over.set()
    assert (result.status, len(fake.asked)) == (Status.SANDBOX_ERROR, 1)
    assert "did not answer within 0.3 s" in result.message


def test_a_server_that_is_down_is_named_and_construction_does_not_need_it() -> None:
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))  # nobody listens, and nobody else gets the port
    with taken, FusionSandbox(f"http://:hush@127.0.0.1:{taken.getsockname()[1]}") as sandbox:
        result = sandbox.run("1")
        assert result.status is Status.SANDBOX_ERROR
        assert "127.0.0.1" in result.message
        assert "hush" not in result.message + sandbox.endpoint
        with pytest.raises(SandboxUnavailable, match=r"no sandbox server at http://127.*trm sandbox serve"):
            sandbox.ping()
        assert sandbox.session().run("1").status is Status.SANDBOX_ERROR


def test_a_broken_connection_is_asked_again() -> None:
    def hang_up(body: Any) -> tuple[int, bytes]:
        raise ConnectionAbortedError

    result, fake = run_against(hang_up, answer())
    assert (result.status, len(fake.asked)) == (Status.OK, 2)


@pytest.mark.parametrize("endpoint", ["", "localhost:8080", "ftp://a", "http://", "http://a:x", "http://a/?q", 3, None])
def test_a_bad_endpoint_is_named(endpoint: Any) -> None:
    with pytest.raises(ValueError, match=r"endpoint = .*expected the address of a SandboxFusion server, such as"):
        FusionSandbox(endpoint)


def test_the_address_of_a_call_is_not_the_servers() -> None:
    with pytest.raises(ValueError, match="leave /run_code out"):
        FusionSandbox("http://127.0.0.1:8080/run_code")


@pytest.mark.parametrize(
    ("field", "value"), [("max_concurrent", 0), ("retries", -1), ("retries", True), ("margin_s", 0), ("limits", 3)]
)
def test_bad_arguments_are_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field} .*expected"):
        FusionSandbox("http://127.0.0.1:1", **{field: value})  # type: ignore[arg-type]


def test_bad_arguments_of_a_run_are_named_without_a_request() -> None:
    with FusionSandbox("http://127.0.0.1:1") as sandbox:
        for arguments, message in (
            ({"language": "cpp"}, "language: got 'cpp'"),
            ({"files": {"../a": ""}}, "files: got "),
        ):
            with pytest.raises(ValueError, match=message):
                sandbox.run("1", **arguments)  # type: ignore[arg-type]


async def test_requests_beyond_the_bound_wait() -> None:
    inside, most = 0, 0

    def count(body: Any) -> tuple[int, bytes]:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.02)
        inside -= 1
        return answer()

    with FakeServer(count) as fake, FusionSandbox(fake.address, max_concurrent=3) as sandbox:
        results = await asyncio.gather(*(sandbox.arun("1") for _ in range(15)))
    assert all(result.ok for result in results)
    assert most == 3


@needs_bubblewrap
async def test_the_loop_stays_free_and_a_cancelled_call_ends_its_program() -> None:
    with LocalSandbox(max_concurrent=1) as local, running_server(local) as address, FusionSandbox(address) as sandbox:
        task = asyncio.create_task(sandbox.arun("import time; time.sleep(60)", limits=Limits(wall_s=60)))
        started = time.monotonic()
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert time.monotonic() - started < 5
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # the only place is free again
        assert (await asyncio.wait_for(sandbox.arun("print(1)"), 5)).stdout == "1\n"


async def test_closing_ends_what_is_under_way_as_a_sandbox_error() -> None:
    with FakeServer(lambda body: time.sleep(1) or answer()) as fake:
        sandbox = FusionSandbox(fake.address)
        task = asyncio.create_task(sandbox.arun("1"))
        await asyncio.sleep(0.1)
        sandbox.close()
        sandbox.close()
        assert "closed during the call" in (await task).message
        with pytest.raises(ValueError, match="sandbox is closed"):
            sandbox.run("1")


def test_a_forked_process_makes_its_own_connections() -> None:
    with FakeServer(answer()) as fake, FusionSandbox(fake.address) as sandbox:
        assert sandbox.run("1").ok
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)  # a child that waits for its parent's connections waits for ever
            os._exit(0 if sandbox.run("1").ok else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert sandbox.run("1").ok


def test_what_is_sent_is_json_whatever_the_program_holds() -> None:
    _, fake = run_against(answer(), code="# \u2028 \x00 \U0001f600")
    assert fake.asked[0][1]["code"] == "# \u2028 \x00 \U0001f600"
    assert json.dumps(fake.asked[0][1])
