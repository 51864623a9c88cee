"""The base of sandboxes and sessions: every argument reaches the request, the loop stays free, cancelled work stops."""

import asyncio
import inspect
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from trm_envs.sandbox import Limits, LocalSandbox, LocalSession, Result, Runner, Status, UnsafeSandbox, UnsafeSession
from trm_envs.sandbox.fusion.sandbox import FusionSandbox
from trm_envs.sandbox.fusion.session import FusionSession
from trm_envs.sandbox.interface import SandboxClosed
from trm_envs.sandbox.request import Request
from trm_envs.sandbox.runner import BaseRunner, BlockingSandbox, BlockingSession

OWN, GIVEN = Limits(wall_s=3), Limits(wall_s=7, memory_bytes=1 << 27)
SANDBOXES = (LocalSandbox, UnsafeSandbox, FusionSandbox)
SESSIONS = (LocalSession, UnsafeSession, FusionSession)


class FakeWork:
    """A fake: holds up a request until it is aborted, if its code says so."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.aborted = threading.Event()
        self.num_closed = 0

    def ask(self, request: Request) -> Result:
        self.asked.append(request)
        if request.code == "wait":
            self.aborted.wait(10)
        return Result(Status.OK, stdout=str(len(self.asked)), return_code=0)

    def abort(self) -> None:
        self.aborted.set()

    def close(self) -> None:
        self.num_closed += 1


class FakeSandbox(BlockingSandbox):
    """A fake: remembers its work."""

    def __init__(self) -> None:
        super().__init__(OWN, ThreadPoolExecutor(2))
        self.works: list[FakeWork] = []

    def _open(self) -> FakeWork:
        self._check_open()
        self.works.append(FakeWork())
        return self.works[-1]

    def close(self) -> None:
        self._closed = True
        self._threads.shutdown(wait=False)


@pytest.fixture
def sandbox() -> Iterator[FakeSandbox]:
    with FakeSandbox() as made:
        yield made


def test_every_sandbox_and_session_has_the_one_run_of_the_base_with_the_signature_of_the_interface() -> None:
    for kind in (*SANDBOXES, *SESSIONS):
        assert (kind.run, kind.arun) == (BaseRunner.run, BaseRunner.arun)
    assert [kind.is_session for kind in (*SANDBOXES, *SESSIONS)] == [False] * 3 + [True] * 3
    for name in ("run", "arun"):
        ours, theirs = inspect.signature(getattr(BaseRunner, name)), inspect.signature(getattr(Runner, name))
        assert ours == theirs


async def test_every_argument_reaches_the_request_by_both_doors(sandbox: FakeSandbox) -> None:
    arguments = ("code", "bash", "in", {"f": "x"}, GIVEN)
    sandbox.run(*arguments, outputs=["out"])
    await sandbox.arun(*arguments, outputs=["out"])
    wanted = Request("code", "bash", b"in", {"f": b"x"}, GIVEN, ["out"], session=False)
    assert [work.asked for work in sandbox.works] == [[wanted], [wanted]]


async def test_without_limits_those_of_the_sandbox_hold_in_its_sessions_too(sandbox: FakeSandbox) -> None:
    session = BlockingSession(sandbox)
    for runner in (sandbox, session):
        runner.run("1")
        await runner.arun("1")
    asked = [request for work in sandbox.works for request in work.asked]
    assert [(request.limits, request.session) for request in asked] == [(OWN, True)] * 2 + [(OWN, False)] * 2


async def test_a_call_has_work_of_its_own_and_a_session_keeps_its_own_until_it_is_closed(sandbox: FakeSandbox) -> None:
    session = BlockingSession(sandbox)
    assert [session.run("1").stdout, (await session.arun("1")).stdout, session.run("1").stdout] == ["1", "2", "3"]
    assert [sandbox.run("1").stdout, (await sandbox.arun("1")).stdout] == ["1", "1"]
    assert [work.num_closed for work in sandbox.works] == [0, 1, 1]
    session.close()
    assert sandbox.works[0].num_closed == 1


@pytest.mark.parametrize("kind", ["sandbox", "session"])
async def test_a_blocking_call_leaves_the_loop_free_and_is_aborted_when_it_is_cancelled(
    sandbox: FakeSandbox, kind: str
) -> None:
    runner = sandbox if kind == "sandbox" else BlockingSession(sandbox)
    started = time.monotonic()
    task = asyncio.create_task(runner.arun("wait"))
    while not (sandbox.works and sandbox.works[0].asked):
        await asyncio.sleep(0.01)
    assert not task.done()
    assert time.monotonic() - started < 5
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    [work] = sandbox.works
    assert work.aborted.is_set()
    assert work.num_closed == (1 if kind == "sandbox" else 0)


async def test_a_bad_argument_is_refused_before_any_work_is_begun(sandbox: FakeSandbox) -> None:
    with pytest.raises(ValueError, match="limits: got"):
        sandbox.run("1", limits={})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="language: got 'perl'"):
        await sandbox.arun("1", "perl")
    with pytest.raises(ValueError, match="allowed: Python cells"):
        await BlockingSession(sandbox).arun("1", stdin="x")
    assert [work.asked for work in sandbox.works] == [[]]


@pytest.mark.parametrize("kind", ["unsafe", "fake"])
async def test_a_closed_sandbox_says_so_by_both_doors_and_in_its_sessions(kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sandbox = UnsafeSandbox() if kind == "unsafe" else FakeSandbox()
    session = UnsafeSession(sandbox) if kind == "unsafe" else BlockingSession(sandbox)
    sandbox.close()
    with pytest.raises(SandboxClosed, match="sandbox is closed; make a new"):
        sandbox.run("1")
    for runner in (sandbox, session):
        with pytest.raises(SandboxClosed, match="sandbox is closed; make a new"):
            await runner.arun("1")
