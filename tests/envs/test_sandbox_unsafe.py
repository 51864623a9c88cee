"""The unsafe sandbox and the shared one: the same interface, time and output held, and a loud word."""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.envs.sandbox_support import MIB, TIGHT, needs_bubblewrap
from trm_envs.sandbox import (
    Limits,
    LocalSandbox,
    SandboxUnavailable,
    Status,
    UnsafeSandbox,
    close_shared,
    shared_sandbox,
)
from trm_envs.sandbox.slots import Slots

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sandbox() -> Iterator[UnsafeSandbox]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = UnsafeSandbox(Limits(wall_s=20))
    with made:
        yield made


@pytest.fixture
def shared() -> Iterator[None]:
    close_shared()
    yield
    close_shared()


def test_it_says_that_nothing_is_isolated() -> None:
    with pytest.warns(RuntimeWarning, match="nothing is isolated"):
        UnsafeSandbox().close()


def test_a_program_reads_stdin_and_files_and_leaves_files(sandbox: UnsafeSandbox) -> None:
    code = "import sub.mod\nn = int(input())\nopen('out.bin', 'wb').write(bytes([n]))\nprint(sub.mod.twice(n))"
    result = sandbox.run(
        code, stdin="21\n", files={"sub/mod.py": "def twice(n): return 2 * n\n"}, outputs=["out.bin", "absent"]
    )
    assert (result.status, result.stdout, result.return_code) == (Status.OK, "42\n", 0)
    assert result.files == {"out.bin": b"\x15"}
    assert set(result.missing) == {"absent"}
    assert sandbox.run("import os; print(os.listdir('.'), os.environ.get('HOME') == os.getcwd())").stdout == "[] True\n"


@pytest.mark.parametrize(
    ("code", "language", "return_code", "stderr"),
    [
        ("import sys; sys.exit(3)", "python", 3, ""),
        ("1 / 0", "python", 1, "ZeroDivisionError: division by zero\n"),
        ("cat; exit 4", "bash", 4, ""),
        ("import os; os.abort()", "python", -6, ""),
    ],
)
def test_return_codes_are_those_of_an_interpreter(
    sandbox: UnsafeSandbox, code: str, language: str, return_code: int, stderr: str
) -> None:
    result = sandbox.run(code, language)
    assert (result.status, result.return_code) == (Status.ERROR, return_code)
    assert result.stderr.endswith(stderr)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("while True: pass", Status.TIMEOUT),
        ("while True: print('x' * 1000)", Status.OUTPUT_LIMIT),
        ("import sys\nwhile True: sys.stderr.write('x' * 1000)", Status.OUTPUT_LIMIT),
        ("x = bytearray(100 << 30)", Status.MEMORY),
    ],
)
def test_time_output_and_memory_are_limited(sandbox: UnsafeSandbox, code: str, status: Status) -> None:
    started = time.monotonic()
    limits = Limits(wall_s=1 if status is Status.TIMEOUT else 20, memory_bytes=256 * MIB, output_bytes=MIB)
    result = sandbox.run(code, limits=limits)
    assert result.status is status, result
    assert len(result.stdout) <= MIB
    assert time.monotonic() - started < 15


def test_a_stopped_program_takes_its_children_along(sandbox: UnsafeSandbox) -> None:
    code = "import os, time\nchild = os.fork()\nif child: print(child, flush=True)\ntime.sleep(60)"
    result = sandbox.run(code, limits=Limits(wall_s=3))
    assert result.status is Status.TIMEOUT
    # a child that is dead but not collected has no executable any more
    deadline = time.monotonic() + 5
    while (alive := Path(f"/proc/{int(result.stdout)}/exe").exists()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive


def test_a_session_keeps_its_state_until_it_is_stopped(sandbox: UnsafeSandbox) -> None:
    with sandbox.session() as session:
        assert session.run("x = 6\nopen('f', 'w').write('kept')").ok
        assert session.run("print(x * 7)").stdout == "42\n"
        broken = session.run("y = 1\n1 / 0")
        assert (broken.status, broken.return_code, broken.state_lost) == (Status.ERROR, 1, False)
        assert session.run("print(x + y)").stdout == "7\n"
        stopped = session.run("while True: pass", limits=TIGHT)
        assert (stopped.status, stopped.state_lost) == (Status.TIMEOUT, True)
        after = session.run("print('x' in globals(), open('f').read())", limits=Limits(wall_s=20))
        assert after.stdout == "False kept\n"
        assert session.run("import sys; sys.exit(2)").return_code == 2
        with pytest.raises(ValueError, match="allowed: Python cells"):
            session.run("ls", "bash")
    with pytest.raises(ValueError, match="session is closed"):
        session.run("1")


async def test_the_async_twin_leaves_the_loop_free_and_can_be_cancelled(sandbox: UnsafeSandbox) -> None:
    results = await asyncio.gather(*(sandbox.arun(f"print({number})") for number in range(4)))
    assert [result.stdout for result in results] == [f"{number}\n" for number in range(4)]
    task = asyncio.create_task(sandbox.arun("import time; time.sleep(60)", limits=Limits(wall_s=60)))
    await asyncio.sleep(0.2)
    task.cancel()
    started = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("kind", ["unsafe", pytest.param("local", marks=needs_bubblewrap)])
async def test_a_call_that_is_cancelled_while_it_waits_for_a_place_neither_blocks_the_loop_nor_runs(
    monkeypatch: pytest.MonkeyPatch, sandbox: UnsafeSandbox, kind: str
) -> None:
    made = sandbox if kind == "unsafe" else LocalSandbox(max_concurrent=4)
    monkeypatch.setattr(made, "_slots", Slots(1))
    holder = threading.Thread(target=made.run, args=("import time; time.sleep(2)",))
    code = "open('ran', 'w').write('')"
    with contextlib.ExitStack() as opened:
        if kind == "local":
            opened.enter_context(made)
        session = opened.enter_context(made.session())
        holder.start()
        await asyncio.sleep(0.2)
        waiting = [asyncio.create_task(each.arun(code)) for each in (made, session)]
        await asyncio.sleep(0.2)
        for task in waiting:
            task.cancel()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(each) for each in found] == [asyncio.CancelledError] * 2
        assert holder.is_alive(), "the loop waited for a place, too"
        holder.join()
        # the session goes on, in its turn
        result = await session.arun("import os; print(os.path.exists('ran'))")
    assert result.stdout == "False\n"


@pytest.mark.parametrize(("cpu_s", "status"), [(1, Status.TIMEOUT), (20, Status.OK)])
def test_processor_time_is_limited_by_itself(sandbox: UnsafeSandbox, cpu_s: int, status: Status) -> None:
    busy = "import time\nwhile time.process_time() < 2.5: pass\nprint('done')"
    result = sandbox.run(busy, limits=Limits(wall_s=60, cpu_s=cpu_s))
    assert result.status is status, result
    # sleeping costs no processor time
    assert sandbox.run("import time; time.sleep(1.5)", limits=Limits(wall_s=20, cpu_s=1)).ok


@pytest.mark.filterwarnings("ignore:sandbox=unsafe")
def test_closing_ends_what_runs_and_leaves_no_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))
    sandbox = UnsafeSandbox()
    session = sandbox.session()
    assert session.run("x = 1").ok
    results = []
    runner = threading.Thread(target=lambda: results.append(sandbox.run("import time; time.sleep(60)")))
    runner.start()
    time.sleep(0.3)
    sandbox.close()
    runner.join(10)
    assert not results[0].ok
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ValueError, match="sandbox is closed"):
        sandbox.run("1")


@pytest.mark.parametrize("name", ["locl", "docker", "", "http://", "ftp://host", None])
def test_a_bad_name_is_named_with_what_is_allowed(name: object) -> None:
    with pytest.raises(ValueError, match=r"sandbox: got .*; allowed: local, unsafe, or an address") as caught:
        shared_sandbox(name)  # type: ignore[arg-type]
    assert ("did you mean 'local'" in str(caught.value)) == (name == "locl")


@pytest.mark.filterwarnings("ignore:sandbox=unsafe")
def test_one_sandbox_a_process_and_name_however_many_threads_ask(shared: None) -> None:
    found = []
    threads = [threading.Thread(target=lambda: found.append(shared_sandbox("unsafe"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(one) for one in found}) == 1
    close_shared()
    assert shared_sandbox("unsafe") is not found[0]
    with pytest.raises(ValueError, match="sandbox is closed"):
        found[0].run("1")


@needs_bubblewrap
def test_a_forked_child_makes_its_own_and_leaves_its_parents_alone(shared: None) -> None:
    made = shared_sandbox("local")
    assert isinstance(made, LocalSandbox)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            own = shared_sandbox("local")
            code = 0 if own is not made and own.run("print(1)").stdout == "1\n" else 2
            close_shared()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert shared_sandbox("local") is made
    assert made.run("print(2)").stdout == "2\n"


@needs_bubblewrap
def test_the_shared_sandbox_is_closed_at_exit(tmp_path: Path) -> None:
    code = "from trm_envs.sandbox import shared_sandbox\nprint(shared_sandbox('local')._zygote._process.pid)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not Path(f"/proc/{int(done.stdout)}/exe").exists()


def test_where_isolation_is_refused_the_way_out_by_hand_is_named(
    shared: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match=r"(?s)bubblewrap.*sandbox=unsafe, which isolates nothing"):
        shared_sandbox("local")
