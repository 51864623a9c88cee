"""A paused session does not run, whoever would wake it, and disturbs nobody who works for it."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.envs.sandbox_attacks_pause import BUSY, MEET_THE_CLERK, RUN_ON
from tests.envs.sandbox_settings import COMPLETE, SETTINGS, Setting, missing, opened, skip_or_fail
from tests.envs.sandbox_support import descendants_of, needs_bubblewrap
from trm_envs.sandbox import Limits, LocalSandbox, Status
from trm_envs.sandbox.guest.supervisor import REST_S

pytestmark = [pytest.mark.slow, needs_bubblewrap]

NUM_SESSIONS = 20
PAUSE_S = 6.0
WIDE = Limits(wall_s=20, cpu_s=20, memory_bytes=512 << 20)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    with LocalSandbox(WIDE, cgroups="off") as made:  # paused by signals, not by a freezer
        yield made


def seen_under(pid: int) -> Iterator[int]:
    """The processes under `pid` without a look at any other; one may be missed while another ends."""
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                yield int(child)
                yield from seen_under(int(child))


@contextlib.contextmanager
def struck(pid: int, number: int) -> Iterator[list[int]]:
    """Send a signal to every process that is born under `pid` meanwhile, as its like would if it could run."""
    known, hit, is_over = set(descendants_of(pid)), [], threading.Event()

    def strike() -> None:
        while not is_over.is_set():
            for born in set(seen_under(pid)) - known - set(hit):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(born, number)
                    hit.append(born)
            time.sleep(0.0002)

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        yield hit
    finally:
        is_over.set()
        thread.join()


def supervisor_of_the_paused(sandbox: LocalSandbox) -> int:
    """The parent of the one process that is stopped, which takes a moment."""
    assert sandbox._zygote is not None
    while True:
        for pid in descendants_of(sandbox._zygote._process.pid):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
                if state == "T":
                    return int(parent)


def used_by_programs(pid: int) -> dict[int, int]:
    """Nanoseconds of processor time of each thread of the programs under a process: of all that is no PID 1."""
    used = {}
    for process in descendants_of(pid):
        with contextlib.suppress(OSError, StopIteration):
            status = Path(f"/proc/{process}/status").read_text().splitlines()
            numbers = next(line for line in status if line.startswith("NSpid:")).split()
            for task in Path(f"/proc/{process}/task").iterdir() if len(numbers) == 4 and numbers[3] != "1" else ():
                used[int(task.name)] = int((task / "schedstat").read_text().split()[0])
    return used


def used_once_at_rest(settings: list[Setting]) -> list[dict[int, int]]:
    """Wait until the sessions rest, which takes a moment, or longer where others have the processors."""
    deadline = time.monotonic() + 20
    while True:
        before = [used_by_programs(setting.pid) for setting in settings]
        time.sleep(0.5)
        used = [used_by_programs(setting.pid) for setting in settings]
        if used == before or time.monotonic() > deadline:
            return used


@pytest.fixture(scope="module")
def settings() -> Iterator[list[Setting]]:
    """All settings at once, so that they wait together."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(opened(name, WIDE)) for name in SETTINGS if missing(name) is None]
        assert len(made) == len(SETTINGS) or not os.environ.get(COMPLETE)
        yield made


def test_no_processor_time_is_used_between_cells_and_sessions_go_on_where_they_were(settings: list[Setting]) -> None:
    if not settings:
        skip_or_fail("no setting can be had here")
    attacks = [list(RUN_ON)[number % len(RUN_ON)] for number in range(NUM_SESSIONS)] * len(settings)
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(8) as threads:
        sessions = [stack.enter_context(setting.session()) for setting in settings for _ in range(NUM_SESSIONS)]
        cells = [f"{RUN_ON[attack]}\nkept = {number}" for number, attack in enumerate(attacks)]
        left = list(threads.map(lambda session, cell: session.run(cell), sessions, cells))
        assert all(result.ok for result in left), left
        time.sleep(REST_S + 0.5)
        before = used_once_at_rest(settings)
        time.sleep(PAUSE_S)
        after = [used_by_programs(setting.pid) for setting in settings]
        results = list(threads.map(lambda session: session.run("print(kept)"), sessions))
    for setting, was, now in zip(settings, before, after, strict=True):
        assert len(was) >= NUM_SESSIONS
        assert {thread: used - was.get(thread, 0) for thread, used in now.items() if was.get(thread) != used} == {}, (
            setting.name
        )
    ended = [(number, result) for number, result in enumerate(results) if result.stdout != f"{number}\n"]
    for number, result in ended:  # who moves within a pause is killed; nobody can who is frozen
        setting = settings[number // NUM_SESSIONS]
        assert not setting.has_cgroups, (attacks[number], result)
        assert (result.status, result.state_lost) == (Status.ERROR, True), (setting.name, attacks[number], result)
    assert len(ended) <= 2, "many sessions have not come to rest: this test has shown little"


@pytest.mark.parametrize("number", range(len(SETTINGS)))
def test_a_session_with_threads_and_children_goes_on_after_each_pause(settings: list[Setting], number: int) -> None:
    if number >= len(settings):
        skip_or_fail("not all settings can be had here")
    with settings[number].session() as session:
        assert session.run(BUSY).ok
        for number in range(12):
            files = {"f": "x" * 1000} if number % 3 == 0 else None
            result = session.run(f"print({number})", files=files, outputs=["f"] if number % 4 == 0 else [])
            assert result.stdout == f"{number}\n", result
            time.sleep(0.05 * (number % 3))


@pytest.mark.parametrize("name", MEET_THE_CLERK)
def test_no_process_of_a_session_meets_who_writes_its_files(sandbox: LocalSandbox, name: str) -> None:
    with sandbox.session() as session:
        assert session.run(MEET_THE_CLERK[name]).ok
        result = session.run("print(len(open('f').read()))", files={"f": "x" * (2 << 20)}, outputs=["f"])
        assert (result.stdout, len(result.files["f"])) == (f"{2 << 20}\n", 2 << 20), result


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("writes", [False, True])
def test_who_cannot_write_or_read_files_for_a_session_makes_it_fail_at_once(
    sandbox: LocalSandbox, writes: bool, number: int
) -> None:
    data = "x" * (8 << 20)
    with sandbox.session() as session:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert session.run(f"open('f', 'w').write('x' * {len(data)})").ok
            supervisor = supervisor_of_the_paused(sandbox)
            started = time.monotonic()
            with struck(supervisor, number) as hit:
                result = session.run("1", files={"f": data} if writes else None, outputs=() if writes else ["f"])
            if not result.ok:
                break  # else it was done before it was struck, or seen: others had the processors
        assert hit, "nobody was seen: this test has shown nothing"
        assert (result.status, result.return_code, result.state_lost) == (Status.ERROR, 1, True), result
        assert time.monotonic() - started < WIDE.wall_s / 2
        assert session.run("print(2)").stdout == "2\n"
