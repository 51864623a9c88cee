"""Sessions over HTTP: state by replay, and what becomes of it when a replay goes otherwise."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.envs.fusion_support import FakeServer, Reply, running_server
from tests.envs.sandbox_support import TIGHT, needs_bubblewrap
from trm_envs.sandbox import Limits, LocalSandbox, Status
from trm_envs.sandbox.fusion import poster as fusion_http
from trm_envs.sandbox.fusion.bounds import Bounds
from trm_envs.sandbox.fusion.decoding import BadField
from trm_envs.sandbox.fusion.jobs import MOST, read_jupyter
from trm_envs.sandbox.fusion.poster import Poster
from trm_envs.sandbox.fusion.sandbox import FusionSandbox

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sandbox() -> Iterator[FusionSandbox]:
    limits = Limits(wall_s=5)
    with (
        LocalSandbox(limits, max_concurrent=4) as local,
        running_server(local) as address,
        FusionSandbox(address, limits=limits, retries=0) as made,
    ):
        yield made


def cells(*stdouts: str, error: str | None = None, **fields: Any) -> Reply:
    """A foreign server's answer to `/run_jupyter`; `error` is the last cell's."""
    made: list[dict[str, Any]] = [{"stdout": out, "stderr": "", "display": [], "error": []} for out in stdouts]
    if error is not None:
        made[-1]["error"] = [{"ename": error, "evalue": "no", "traceback": [f"\x1b[0;31m{error}\x1b[0m: no"]}]
    whole = {"status": "Success", "message": "", "driver": {"status": "Finished", "return_code": 0}, "cells": made}
    return 200, json.dumps({**whole, **fields}).encode()


@needs_bubblewrap
def test_a_session_keeps_variables_files_and_what_an_error_left(sandbox: FusionSandbox) -> None:
    with sandbox.session() as session:
        # a replay that saw a later file would raise
        code = "import math\nx = 6\ngiven = open('given').read()\nassert given == '1'\nprint(given)"
        first = session.run(code, files={"given": "1"})
        assert (first.status, first.stdout) == (Status.OK, "1\n")
        assert session.run("open('made', 'w').write('m')").stdout == ""
        broken = session.run("import sys\ny = 1\nprint('out')\nsys.stderr.write('err\\n')\n1 / 0")
        assert (broken.status, broken.return_code, broken.state_lost) == (Status.ERROR, 1, False)
        assert broken.stdout == "out\n"
        assert broken.stderr.startswith("err\nTraceback (most recent call last):\n")
        assert broken.stderr.endswith("ZeroDivisionError: division by zero\n")
        # a file given later overwrites, and was not there before
        code = "print(x * 7 + y, open('made').read(), open('given').read(), math.pi > 3)"
        after = session.run(code, files={"given": "2", "sub/new": b"\xff"}, outputs=["sub/new", "no"])
        assert after.stdout == "43 m 2 True\n"
        assert (after.files, list(after.missing)) == ({"sub/new": b"\xff"}, ["no"])
        assert session.run("print(sorted(n for n in globals() if 'trm' in n))").stdout == "[]\n"
    with pytest.raises(ValueError, match="session is closed"):
        session.run("1")


@needs_bubblewrap
@pytest.mark.parametrize(
    ("code", "status", "return_code"),
    [
        ("while True: pass", "timeout", None),
        ("import os; os._exit(3)", "error", 3),
        ("import sys; sys.exit()", "ok", 0),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "error", -11),
        ("while True: print('x' * 1000)", "output_limit", None),
    ],
)
def test_a_cell_that_ends_the_interpreter_loses_the_state_and_keeps_given_files(
    sandbox: FusionSandbox, code: str, status: str, return_code: int | None
) -> None:
    with sandbox.session() as session:
        session.run("x = 1", files={"given": "g"}, limits=TIGHT)
        stopped = session.run(f"print('last words', flush=True)\n{code}", limits=TIGHT)
        assert (stopped.status.value, stopped.return_code, stopped.state_lost) == (status, return_code, True)
        assert stopped.stdout.startswith("last words\n")
        assert session.run("print('x' in globals(), open('given').read())").stdout == "False g\n"


@needs_bubblewrap
def test_a_memory_error_is_the_programs_and_keeps_the_state(sandbox: FusionSandbox) -> None:
    with sandbox.session() as session:
        session.run("x = 1")
        failed = session.run("y = bytearray(100 << 30)")
        assert (failed.status, failed.return_code, failed.state_lost) == (Status.MEMORY, 1, False)
        assert session.run("print(x)").stdout == "1\n"


@needs_bubblewrap
def test_a_replay_that_goes_otherwise_is_the_sessions_error_and_the_state_is_lost(sandbox: FusionSandbox) -> None:
    with sandbox.session() as session:
        until = time.time() + 1.5
        assert session.run(f"import time\nassert time.time() < {until}").ok
        time.sleep(max(0.0, until + 0.1 - time.time()))
        result = session.run("print(1)")
        assert (result.status, result.state_lost) == (Status.ERROR, True)
        assert "cell 1 raised, unlike before" in result.message
        assert session.run("print('time' in globals())").stdout == "False\n"


@needs_bubblewrap
async def test_the_async_twin_takes_one_call_at_a_time_and_a_cancelled_one_changes_nothing(
    sandbox: FusionSandbox,
) -> None:
    with sandbox.session() as session:
        assert (await session.arun("x = []")).ok
        done = await asyncio.gather(*(session.arun(f"x.append({number}); print(x)") for number in range(3)))
        assert [len(json.loads(result.stdout)) for result in done] == [1, 2, 3]
        task = asyncio.create_task(session.arun("x.clear(); import time; time.sleep(60)", limits=Limits(wall_s=60)))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await session.arun("print(len(x))")).stdout == "3\n"


@pytest.mark.parametrize(
    ("reply", "status", "state_lost"),
    [
        (cells("a", "b"), "ok", False),
        (cells("a", "b", error="KeyError"), "error", False),
        (cells("a", "b", error="MemoryError"), "memory", False),
        (cells(status="Failed", driver={"status": "TimeLimitExceeded"}), "timeout", True),
        (cells("a"), "error", True),
        (cells("a", error="KeyError"), "error", True),
        (cells(status="SandboxError", message="no kernel"), "sandbox_error", False),
        ((200, b"{}"), "sandbox_error", False),
        ((422, b"{}"), "sandbox_error", False),
    ],
)
def test_a_foreign_servers_answer_becomes_our_status(reply: Reply, status: str, state_lost: bool) -> None:
    with FakeServer(cells("a"), reply) as fake, FusionSandbox(fake.address, retries=0) as sandbox:
        session = sandbox.session()
        assert session.run("one").stdout == "a"
        result = session.run("two", limits=Limits(wall_s=3))
        assert (result.status.value, result.state_lost) == (status, state_lost)
        if status in ("error", "memory") and not state_lost:
            assert result.stderr.endswith("Error: no\n")
            assert "\x1b" not in result.stderr
        session.run("three")
        # a failure of the server leaves the session where it was
        kept = {"ok": ["one", "two"], "error": ["one", "two"], "memory": ["one", "two"], "sandbox_error": ["one"]}
        assert fake.asked[1][1]["cells"] == ["one", "two"]
        assert fake.asked[2][1]["cells"] == [*([] if state_lost else kept[status]), "three"]
        assert [path for path, _ in fake.asked] == ["/run_jupyter"] * 3
        assert fake.asked[1][1]["cell_timeout"] == 10.0  # the longest so far


def test_a_session_takes_neither_bash_nor_stdin() -> None:
    with FusionSandbox("http://127.0.0.1:1") as sandbox:
        session = sandbox.session()
        for arguments, field in (({"language": "bash"}, "language: got 'bash'"), ({"stdin": "x"}, "stdin: got 'x'")):
            with pytest.raises(ValueError, match=field):
                session.run("1", **arguments)


@needs_bubblewrap
def test_what_earlier_cells_print_makes_no_answer_longer(sandbox: FusionSandbox, monkeypatch) -> None:
    lengths: list[int] = []
    exchange = Poster._exchange

    async def measured(self: Poster, *args: Any) -> tuple[int, bytes]:
        code, content = await exchange(self, *args)
        lengths.append(len(content))
        return code, content

    monkeypatch.setattr(Poster, "_exchange", measured)
    with sandbox.session() as session:
        flood = "import sys\nsys.stdout.write('\\0' * 200_000)\nsys.stderr.write('\\0' * 200_000)"
        results = [session.run(code) for code in (flood, f"{flood}\n1 / 0", flood, "print('end')")]
    assert [len(result.stdout) for result in results] == [200_000, 200_000, 200_000, 4]
    assert [result.status for result in results] == [Status.OK, Status.ERROR, Status.OK, Status.OK]
    assert results[1].stderr.endswith("ZeroDivisionError: division by zero\n")
    assert not any(result.state_lost for result in results)
    assert lengths[-1] < 3000 < 2_000_000 < lengths[0] < 1.1 * lengths[2] < 1.3 * lengths[0]


def test_a_session_that_a_server_lets_print_without_end_loses_its_state_and_voids_nothing() -> None:
    limits = Limits(output_bytes=1000)
    with (
        FakeServer(cells("x" * (3 << 20)), cells("ok")) as fake,
        FusionSandbox(fake.address, retries=0) as sandbox,
        sandbox.session() as session,
    ):
        flooded, after = session.run("flood", limits=limits), session.run("print('ok')", limits=limits)
        assert fake.asked[-1][1]["cells"] == ["print('ok')"]
    assert (flooded.status, flooded.state_lost) == (Status.OUTPUT_LIMIT, True)
    assert (after.status, after.stdout) == (Status.OK, "ok")


@pytest.mark.parametrize("number", [-1, 2, True, "1", 1.0])
def test_a_number_of_replayed_cells_that_cannot_be_is_refused(number: Any) -> None:
    body = {"cells": ["a", "b"], "trm_replayed": number}
    with pytest.raises(BadField, match=r"trm_replayed: got .*expected an integer from 0 to 1"):
        read_jupyter(body, Limits(), MOST, Bounds())


def test_the_time_of_a_replay_grows_with_every_cell_and_a_cell_too_long_to_send_leaves_no_trace(monkeypatch) -> None:
    monkeypatch.setattr(fusion_http, "MOST_BYTES", 20_000)
    reply = cells("a", trm={"status": "ok", "return_code": 0, "duration_s": 10.0})
    two = cells("a", "b", trm={"status": "ok", "return_code": 0, "duration_s": 20.0})
    with FakeServer(reply, two, cells("a", "b", "c")) as fake, FusionSandbox(fake.address, retries=0) as sandbox:
        session = sandbox.session()
        too_long = session.run("#" * 20_000, files={"f": "x"})
        assert (too_long.status, too_long.state_lost) == (Status.ERROR, False)
        for code in ("one", "two", "three"):
            session.run(code, limits=Limits(wall_s=4))
    assert [body["cells"] for _, body in fake.asked] == [["one"], ["one", "two"], ["one", "two", "three"]]
    assert [body["files"] for _, body in fake.asked] == [{}] * 3
    # 4 s of its own, three times the replay's 10 s and 10 + 20 s, 5 s and 0.25 s a replayed cell to spare
    assert [body["total_timeout"] for _, body in fake.asked] == [4.0, 4 + 30 + 5.25, 4 + 90 + 5.5]
