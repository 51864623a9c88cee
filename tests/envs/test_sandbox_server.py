"""The server by itself: bad requests, who may ask, bounds, and what a client that hangs up leaves."""

import asyncio
import contextlib
import json
import select
import socket
import struct
import time
from typing import Any

import pytest
import requests
import sandbox_fusion
from sandbox_fusion import RunCodeRequest

from tests.envs.fusion_process import read_all, request
from tests.envs.fusion_support import LIMITS, FakeSandbox, running_server
from tests.envs.sandbox_support import TIGHT
from trm_envs.sandbox import Limits
from trm_envs.sandbox.fusion import bodies, door, server
from trm_envs.sandbox.fusion.bounds import Bounds
from trm_envs.sandbox.fusion.jobs import MOST
from trm_envs.sandbox.fusion.sandbox import FusionSandbox


def post(url: str, body: Any, path: str = "/run_code", **options: Any) -> requests.Response:
    return requests.post(f"{url}{path}", json=body, timeout=20, **options)


def program(**fields: Any) -> dict[str, Any]:
    return {"code": "print(1)", "language": "python", **fields}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/run_code", {"language": "python"}, "code"),
        ("/run_code", program(language="cobol"), "language"),
        ("/run_code", program(run_timeout=0), "run_timeout"),
        ("/run_code", program(run_timeout=1e6), "run_timeout"),
        ("/run_code", program(compile_timeout=-1), "compile_timeout"),
        ("/run_code", program(memory_limit_MB=1), "memory_limit_MB"),
        ("/run_code", program(memory_limit_MB=10**9), "memory_limit_MB"),
        ("/run_code", program(memory_limit_MB="1"), "memory_limit_MB"),
        ("/run_code", program(files={"a": "?"}), "files.a"),
        ("/run_code", program(files={"../a": ""}), "files.../a"),
        ("/run_code", program(files={f"f{i}": "QQ==" for i in range(17)}), "files"),
        ("/run_code", program(fetch_files=["/etc/passwd"]), "fetch_files"),
        ("/run_code", program(code="\ud800"), "code"),
        ("/run_code", program(trm_limits={"wall": 1}), "trm_limits"),
        ("/run_code", program(trm_limits={"processes": 0}), "trm_limits"),
        ("/run_code", program(trm_limits={"processes": 9999}), "trm_limits.processes"),
        ("/run_code", [], "body"),
        ("/run_jupyter", {}, "cells"),
        ("/run_jupyter", {"cells": []}, "cells"),
        ("/run_jupyter", {"cells": ["1"], "total_timeout": 1e9}, "total_timeout"),
        ("/run_jupyter", {"cells": ["1"], "kernel": "ir"}, "kernel"),
    ],
)
def test_a_bad_request_is_422_and_names_the_field(path: str, body: Any, field: str) -> None:
    fake = FakeSandbox()
    fake.limits = Limits(disk_bytes=1 << 16)  # 16 pages
    with running_server(fake) as url:  # type: ignore[arg-type]
        response = requests.post(f"{url}{path}", data=json.dumps(body), timeout=5)
    assert response.status_code == 422
    detail = response.json()["detail"][0]
    assert ".".join(detail["loc"]) == f"body.{field}"
    assert detail["msg"]


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 60_000, b'{"code": NaNN}'])
def test_what_is_not_json_is_422(data: bytes) -> None:
    with running_server(FakeSandbox()) as url:  # type: ignore[arg-type]
        response = requests.post(f"{url}/run_code", data=data, timeout=5)
        assert (response.status_code, response.json()["detail"][0]["loc"]) == (422, ["body", "body"])


def test_a_language_that_is_not_there_is_a_sandbox_error_and_never_a_verdict() -> None:
    with running_server(FakeSandbox()) as url:  # type: ignore[arg-type]
        answer = post(url, program(language="cpp")).json()
    assert (answer["status"], answer["message"]) == (
        "SandboxError",
        "language = 'cpp': this server runs python and bash",
    )


def test_a_requests_limits_reach_the_sandbox() -> None:
    fake = FakeSandbox()
    with running_server(fake) as url:  # type: ignore[arg-type]
        post(url, program(run_timeout=20, memory_limit_MB=300))
        post(url, program(run_timeout=20, trm_limits={"cpu_s": 2, "processes": 3, "wall_s": 7}))
    # run_timeout is seconds on the clock: the processor time must not end a program before
    assert (fake.asked[0].wall_s, fake.asked[0].memory_bytes) == (20, 300 << 20)
    assert fake.asked[0].cpu_s >= 20
    assert (fake.asked[1].wall_s, fake.asked[1].cpu_s, fake.asked[1].processes) == (20, 2, 3)


def test_a_sandbox_that_fails_is_told_as_such() -> None:
    with running_server(FakeSandbox(error=RuntimeError("no zygote"))) as url:  # type: ignore[arg-type]
        answer = post(url, program()).json()
        assert (answer["status"], answer["message"]) == ("SandboxError", "RuntimeError: no zygote")


def test_paths_sizes_origins_and_tokens_are_checked() -> None:
    with running_server(FakeSandbox(), token="hush", bounds=Bounds(body_bytes=1000)) as url:  # type: ignore[arg-type]
        bare, given = url, url.replace("://", "://:hush@")
        assert post(bare, program()).status_code == 401
        assert requests.get(f"{bare}/v1/ping", timeout=5).status_code == 401
        assert post(bare.replace("://", "://:hushh@"), program()).status_code == 401
        assert post(bare, program(), headers={"Authorization": "Bearer hush"}).status_code == 200
        assert post(given, program(), headers={"Origin": "http://evil.example"}).status_code == 403
        assert post(given, program(code="x" * 2000)).status_code == 413
        assert requests.get(f"{given}/v1/ping", timeout=5).json() == "pong"
        missing = post(given, {}, "/submit")
        assert (missing.status_code, "POST /run_code" in missing.json()["detail"]) == (404, True)
        assert requests.get(f"{given}/run_code", timeout=5).status_code == 405
        # what clients do with such an address
        assert sandbox_fusion.run_code(RunCodeRequest(**program()), given, 1).run_result.stdout == "ran\n"
        with FusionSandbox(given) as sandbox:
            sandbox.ping()
            assert sandbox.run("1").ok


async def test_programs_beyond_the_bound_wait_and_too_many_are_sent_away() -> None:
    fake = FakeSandbox(seconds=0.15)
    with running_server(fake, max_concurrent=3) as url:  # type: ignore[arg-type]
        responses = await asyncio.gather(*(asyncio.to_thread(post, url, program()) for _ in range(12)))
        assert [response.json()["status"] for response in responses] == ["Success"] * 12
        assert fake.most == 3
    fake = FakeSandbox(seconds=60)
    with (
        running_server(fake, max_concurrent=3, bounds=Bounds(waiting=1)) as url,  # type: ignore[arg-type]
        contextlib.ExitStack() as stack,
    ):
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        clients = [stack.enter_context(socket.create_connection(address)) for _ in range(8)]
        for client in clients:
            client.sendall(request(program()))
        answered: list[socket.socket] = []
        deadline = time.monotonic() + 5
        while len(answered) < 5 and time.monotonic() < deadline:
            answered, _, _ = select.select(clients, [], [], 0.05)
        # three run, one waits with signs of life, four are sent away
        assert sorted(client.recv(12) for client in answered) == [b"HTTP/1.1 200"] + [b"HTTP/1.1 503"] * 4


@pytest.mark.slow
async def test_a_body_that_waits_for_room_has_signs_of_life_and_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (bodies, server):
        monkeypatch.setattr(module, "QUIET_S", 0.05)
    long, bound = "#" * 700_000, 1_000_000
    fake = FakeSandbox(seconds=0.5)
    with (
        running_server(fake, max_concurrent=1, bounds=Bounds(body_bytes=bound, all_body_bytes=bound)) as url,  # type: ignore[arg-type]
        FusionSandbox(url, retries=0, margin_s=1.5, limits=LIMITS) as sandbox,
    ):
        calls = [sandbox.arun(long, limits=Limits(wall_s=0.1)) for _ in range(4)]
        short = asyncio.create_task(sandbox.arun("1"))
        results = await asyncio.gather(*calls)
        assert all(result.ok for result in results), results
        assert (await short).ok
        # one body at a time has room, and a short one comes in beside it
        assert len(fake.asked) == 5
        # HTTP 200 has been said by then: what is wrong is told in the schema
        first = asyncio.create_task(sandbox.arun(long))
        await asyncio.sleep(0.1)
        answer = await asyncio.to_thread(post, url, program(code=long, run_timeout=-1))
    assert (answer.status_code, answer.json()["status"]) == (200, "SandboxError")
    assert "run_timeout: got -1" in answer.json()["message"]
    assert (await first).ok


def test_a_client_that_hangs_up_ends_its_program() -> None:
    fake = FakeSandbox(seconds=60)
    with running_server(fake) as url:  # type: ignore[arg-type]
        with pytest.raises(requests.Timeout):
            requests.post(f"{url}/run_code", json=program(), timeout=0.2)
        deadline = time.monotonic() + 5
        while not fake.cancelled and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (fake.cancelled, fake.inside) == (1, 0)


@pytest.mark.parametrize("ahead", [b"", b"GET /v1/ping HTTP/1.1\r\nHost: a\r\n\r\n" * 100, b"x" * 20_000])
@pytest.mark.parametrize("path", ["/run_code", "/run_jupyter"])
def test_a_connection_that_is_reset_ends_its_program_whatever_was_sent_ahead(ahead: bytes, path: str) -> None:
    fake = FakeSandbox(seconds=60)
    with running_server(fake) as url:  # type: ignore[arg-type]
        body = {"cells": ["1"]} if path == "/run_jupyter" else program()
        connection = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
        connection.sendall(request(body, path) + (ahead if ahead[:1] == b"G" else b""))
        deadline = time.monotonic() + 5
        while not fake.inside and time.monotonic() < deadline:
            time.sleep(0.01)
        connection.sendall(ahead)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        while not fake.cancelled and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (fake.cancelled, fake.inside) == (1, 0)


def test_all_cells_of_a_notebook_together_are_held_to_a_limit_of_what_they_print() -> None:
    fake = FakeSandbox()
    with running_server(fake, bounds=Bounds(cells_bytes=18)) as url:  # type: ignore[arg-type]
        for replayed, ran in (
            (0, 5),
            (4, 9),
            (8, 10),
        ):  # each prints four characters; those of replayed ones are left out
            fake.asked.clear()
            body = {"cells": ["1"] * 10, "trm_replayed": replayed}
            answer = post(url, body, "/run_jupyter").json()
            assert (len(answer["cells"]), len(fake.asked)) == (ran, ran)
            assert answer["status"] == ("Success" if ran == 10 else "Failed")
            assert answer["trm"]["status"] == ("ok" if ran == 10 else "output_limit")


def test_a_body_that_was_sent_ahead_in_parts_arrives_in_order() -> None:
    fake = FakeSandbox(seconds=0.2)
    second = request(program(code="second"), headers="Connection: close\r\n")
    with (
        running_server(fake) as url,  # type: ignore[arg-type]
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=5) as connection,
    ):
        connection.sendall(request(program()) + second[:-20])
        time.sleep(0.05)
        connection.sendall(second[-20:-10])
        time.sleep(0.3)  # the first is answered, the second goes on
        connection.sendall(second[-10:])
        assert read_all(connection).count(b"HTTP/1.1 200") == 2


def test_the_log_has_a_line_for_each_request_and_no_code() -> None:
    lines: list[str] = []
    with running_server(FakeSandbox(), log=lines.append) as url:  # type: ignore[arg-type]
        post(url, program(code="secret"))
        post(url, program(run_timeout=-1))
        requests.get(f"{url}/nowhere", timeout=5)
    assert [line.split()[1:4] for line in lines] == [
        ["POST", "/run_code", "200"],
        ["POST", "/run_code", "422"],
        ["GET", "/nowhere", "404"],
    ]
    assert " ok " in lines[0]
    assert "run_timeout" in lines[1]
    assert "secret" not in "".join(lines)


@pytest.mark.parametrize(("field", "value"), [("max_concurrent", 0), ("port", -1), ("port", 70_000), ("token", "a b")])
def test_bad_arguments_are_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field}.*expected"):
        server.SandboxServer(FakeSandbox(), **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "token", "words"),
    [
        ("127.0.0.1", None, None),
        ("::1", None, None),
        ("localhost", None, None),
        ("0.0.0.0", None, "no authentication"),
        ("10.0.0.1", None, "no authentication"),
        ("::", "t", "unencrypted"),
    ],
)
def test_an_address_that_others_reach_is_warned_of(host: str, token: str | None, words: str | None) -> None:
    said = door.warning(host, token)
    assert said is None if words is None else words in said  # type: ignore[operator]


def test_the_largest_limits_admit_the_defaults_and_the_tests() -> None:
    for limits in (Limits(), TIGHT):
        assert all(getattr(limits, name) <= getattr(MOST, name) for name in Limits.__dataclass_fields__)
