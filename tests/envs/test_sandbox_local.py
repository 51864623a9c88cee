"""The local sandbox in honest use: languages, files, sessions, concurrency, and where isolation cannot be had."""

import asyncio
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.envs.sandbox_support import TIGHT, needs_bubblewrap
from trm_envs.sandbox import Limits, LocalSandbox, Result, SandboxUnavailable, Status
from trm_envs.sandbox.local.connection import Call
from trm_envs.sandbox.local.world import World
from trm_envs.sandbox.request import make_request
from trm_envs.sandbox.slots import Slots

pytestmark = needs_bubblewrap


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    with LocalSandbox(Limits(wall_s=5), max_concurrent=8) as made:
        yield made


def test_a_program_reads_stdin_and_files_and_leaves_files(sandbox: LocalSandbox) -> None:
    code = "import sub.mod\nn = int(input())\nopen('out.bin', 'wb').write(bytes([n]))\nprint(sub.mod.twice(n))"
    result = sandbox.run(
        code,
        stdin="21\n",
        files={"sub/mod.py": "def twice(n): return 2 * n\n", "raw": b"\xff"},
        outputs=["out.bin", "raw"],
    )
    assert (result.status, result.stdout, result.return_code) == (Status.OK, "42\n", 0)
    assert result.files == {"out.bin": b"\x15", "raw": b"\xff"}


def test_an_exception_shows_its_own_line_and_none_of_ours(sandbox: LocalSandbox) -> None:
    result = sandbox.run("def f():\n    raise KeyError('k')\nf()")
    assert (result.status, result.return_code) == (Status.ERROR, 1)
    assert result.stderr.splitlines()[0] == "Traceback (most recent call last):"
    assert result.stderr.splitlines()[1] == '  File "main.py", line 3, in <module>'
    assert result.stderr.endswith("KeyError: 'k'\n")


@pytest.mark.parametrize(
    ("code", "return_code", "stderr"),
    [
        ("import sys; sys.exit()", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('why')", 1, "why\n"),
        ("import os; os._exit(5)", 5, ""),
        ("import os; os.abort()", -6, ""),
        ("import atexit; atexit.register(print, 'late')", 0, ""),
        ("def (", 1, None),
    ],
)
def test_return_codes_are_those_of_an_interpreter(
    sandbox: LocalSandbox, code: str, return_code: int, stderr: str | None
) -> None:
    result = sandbox.run(code)
    assert result.return_code == return_code
    assert stderr is None or result.stderr == stderr
    assert ("atexit" in code) == (result.stdout == "late\n")


def test_bash_runs_with_stdin_and_files(sandbox: LocalSandbox) -> None:
    result = sandbox.run("cat; cat a/b; exit 4", "bash", "in\n", {"a/b": "file\n"})
    assert (result.stdout, result.return_code) == ("in\nfile\n", 4)
    piped = sandbox.run("yes | head -n 1", "bash")
    assert (piped.stdout, piped.stderr, piped.return_code) == ("y\n", "", 0)


def test_streams_open_by_name(sandbox: LocalSandbox) -> None:
    code = "echo a > /dev/stdout; echo b | tee /dev/stderr; cat /dev/stdin; echo d >> /dev/stderr"
    result = sandbox.run(code, "bash", "c\n")
    assert (result.stdout, result.stderr) == ("a\nb\nc\n", "b\nd\n")


def test_what_was_printed_before_the_streams_were_replaced_or_closed_is_not_lost(sandbox: LocalSandbox) -> None:
    replaced = "import io, sys\nprint('kept')\nsys.stdout = io.StringIO()\nprint('away')"
    assert sandbox.run(replaced).stdout == "kept\n"
    closed = sandbox.run("import sys\nprint('kept')\nsys.stdout.close()")
    assert (closed.stdout, closed.return_code) == ("kept\n", 0)


@pytest.mark.slow
def test_the_cpu_limit_stops_a_busy_program_before_the_clock(sandbox: LocalSandbox) -> None:
    result = sandbox.run("while True: pass", limits=Limits(wall_s=30, cpu_s=1))
    assert result.status is Status.TIMEOUT
    assert result.duration_s < 25


def test_a_session_keeps_variables_files_and_imports(sandbox: LocalSandbox) -> None:
    with sandbox.session() as session:
        assert session.run("import math\nx = 6\nopen('f', 'w').write('kept')").ok
        assert session.run("print(x * 7, open('f').read(), math.floor(2.5))").stdout == "42 kept 2\n"
        broken = session.run("y = 1\n1 / 0")
        assert (broken.status, broken.state_lost) == (Status.ERROR, False)
        assert session.run("print(x + y)").stdout == "7\n"
    with pytest.raises(ValueError, match="session is closed"):
        session.run("1")


def test_a_session_that_is_stopped_says_so_and_goes_on_afresh(sandbox: LocalSandbox) -> None:
    with sandbox.session() as session:
        session.run("x = 1\nopen('f', 'w').write('kept')")
        stopped = session.run("while True: pass", limits=TIGHT)
        assert (stopped.status, stopped.state_lost) == (Status.TIMEOUT, True)
        after = session.run("print('x' in globals(), open('f').read())")
        assert after.stdout == "False kept\n"
        left = session.run("import sys; sys.exit(2)")
        assert (left.return_code, left.state_lost) == (2, True)
        assert session.run("print(1)").stdout == "1\n"


def test_sessions_and_calls_see_nothing_of_each_other(sandbox: LocalSandbox) -> None:
    look = "import os\nnum = len([p for p in os.listdir('/proc') if p.isdigit()])\n"
    look += "print(os.listdir('/tmp/work'), os.listdir('/dev/shm'), num)"
    with sandbox.session() as one, sandbox.session() as two:
        hide = "import socket\nopen('/dev/shm/s', 'w').close()\nopen('f', 'w').close()\n"
        hide += "keep = socket.socket(socket.AF_UNIX)\n"
        assert one.run(hide + "keep.bind('\\0meet')\nkeep.listen()").ok
        assert two.run(look).stdout == "[] [] 1\n"
        assert sandbox.run(look).stdout == "[] [] 1\n"
        meet = two.run("import socket\nsocket.socket(socket.AF_UNIX).connect('\\0meet')")
        assert "ConnectionRefusedError" in meet.stderr


@pytest.mark.slow
def test_concurrent_calls_are_all_correct_with_hostile_ones_among_them(sandbox: LocalSandbox) -> None:
    hostile = (
        "while True: pass",
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "x = bytearray(1 << 40)",
    )

    def one(number: int) -> bool:
        if number % 10 == 9:
            return not sandbox.run(hostile[number // 10 % 3], limits=TIGHT).ok
        return sandbox.run(f"print({number} ** 2)").stdout == f"{number**2}\n"

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(40)))


async def test_the_async_twin_leaves_the_loop_free_and_can_be_cancelled(sandbox: LocalSandbox) -> None:
    results = await asyncio.gather(*(sandbox.arun(f"print({number})") for number in range(10)))
    assert [result.stdout for result in results] == [f"{number}\n" for number in range(10)]
    task = asyncio.create_task(sandbox.arun("import time; time.sleep(60)", limits=Limits(wall_s=60)))
    await asyncio.sleep(0.1)
    task.cancel()
    started = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - started < 10  # it sleeps for a minute
    with sandbox.session() as session:
        assert (await session.arun("x = 1")).ok
        assert (await session.arun("print(x)")).stdout == "1\n"


def test_a_dead_zygote_is_replaced() -> None:
    with LocalSandbox(TIGHT) as sandbox:
        assert sandbox._zygote is not None
        sandbox._zygote._process.kill()
        sandbox._zygote._process.wait()
        assert sandbox.run("print(1)").stdout == "1\n"


def test_closing_ends_every_process_and_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))
    sandbox = LocalSandbox(TIGHT)
    session = sandbox.session()
    session.run("x = 1")
    process = sandbox._zygote._process  # type: ignore[union-attr]
    sandbox.close()
    session.close()
    assert process.returncode is not None
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ValueError, match="sandbox is closed"):
        sandbox.run("1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"language": "ruby"}, "language: got 'ruby'; allowed: `python`, `bash`"),
        ({"limits": 3}, "limits: got 3; allowed: Limits"),
        ({"outputs": "a"}, r"pass \['a'\]"),
        ({"stdin": 3}, "stdin: got 3; allowed: str or bytes"),
        ({"files": {"a": b"x" * 200_000_000}}, "at most limits.disk_bytes"),
    ],
)
def test_bad_arguments_are_named(sandbox: LocalSandbox, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sandbox.run("1", **arguments)


@pytest.mark.parametrize(
    ("field", "value"),
    [("wall_s", 0), ("wall_s", float("nan")), ("processes", 1.5), ("memory_bytes", True), ("disk_bytes", "1")],
)
def test_a_limit_that_is_not_allowed_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"limits.{field}: got .*; allowed: a .* number from .* to .*; "):
        Limits(**{field: value})  # type: ignore[arg-type]


def test_everything_dies_with_the_process_that_made_the_sandbox() -> None:
    code = "from trm_envs.sandbox import Limits, LocalSandbox\nmade = LocalSandbox(Limits(wall_s=60))\n"
    code += "session = made.session()\nsession.run('x = 1')\nprint(made._zygote._process.pid, flush=True)\n"
    code += "made.run('import os, time; os.fork(); time.sleep(60)')"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        bwrap = int(host.stdout.readline())
        children = Path(f"/proc/{bwrap}/task/{bwrap}/children").read_text().split()
        assert len(children) == 1
        time.sleep(0.2)
        host.kill()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}/exe").exists() for pid in (bwrap, *children)) and time.monotonic() < deadline:
        time.sleep(0.02)
    # a zygote that is gone takes its PID namespace, and so all calls, with it
    assert not any(Path(f"/proc/{pid}/exe").exists() for pid in (bwrap, *children))


def test_slots_are_handed_on_in_the_order_of_asking() -> None:
    slots, order = Slots(1), []

    def work(number: int) -> None:
        with slots:
            order.append(number)

    with slots:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
        for number, thread in enumerate(threads):
            thread.start()
            while len(slots._waiting) <= number:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]


def test_a_session_uses_nothing_between_its_cells(sandbox: LocalSandbox) -> None:
    with sandbox.session() as session:
        spin = "import threading, time\ndef spin():\n    while True: pass\n"
        assert session.run(spin + "threading.Thread(target=spin, daemon=True).start()\nt = time.process_time()").ok
        time.sleep(0.5)
        # a spinning thread would have used most of the half second
        assert float(session.run("print(time.process_time() - t)").stdout) < 0.25


def test_an_interpreter_outside_of_the_system_is_shown_with_its_prefix_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lone = tmp_path / "bin" / "python3"
    lone.parent.mkdir()
    lone.write_bytes(b"")
    lone.chmod(0o755)
    monkeypatch.setattr("trm_envs.sandbox.local.mounts._readable_by_all", lambda _: True)
    with pytest.raises(SandboxUnavailable, match=r"lib/python3\.x beside its bin/"):
        LocalSandbox(python=str(lone))


def test_hanging_up_waits_for_no_supervisor_that_is_being_made() -> None:
    is_asked, is_made = threading.Event(), threading.Event()

    def take() -> World:
        is_asked.set()
        is_made.wait(10)
        raise OSError("the place came too late")

    call = Call(Slots(1), take, lambda world: None)
    request = make_request("", "python", "", {}, TIGHT, [], session=False)
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(call.ask, request)
        assert is_asked.wait(10)
        started = time.monotonic()
        call.abort()
        call.close()
        assert time.monotonic() - started < 5  # is_made comes after 10
        is_made.set()
        assert answer.result().status is Status.SANDBOX_ERROR


def test_a_result_is_sent_to_other_processes_as_it_is() -> None:
    for result in (Result(Status.SANDBOX_ERROR, message="none"), Result(Status.OK, files={"a": b"b"})):
        assert pickle.loads(pickle.dumps(result)) == result
