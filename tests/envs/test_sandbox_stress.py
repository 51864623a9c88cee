"""Many calls at once, some of them hostile, and what hundreds of calls leave behind."""

import asyncio
import dataclasses
import os
import resource
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.clocks import standing_s
from tests.envs.sandbox_support import MIB, TIGHT, descendants_of, needs_bubblewrap
from trm_envs.sandbox import Limits, LocalSandbox, Result, Status
from trm_envs.sandbox.guest.zygote import SPARES
from trm_envs.sandbox.local.connection import ENOUGH_IDLE

pytestmark = [needs_bubblewrap, pytest.mark.slow]

NUM_RUNS = 200
PATIENT = dataclasses.replace(TIGHT, wall_s=15.0)
HOSTILE = (
    ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", TIGHT, Status.TIMEOUT),
    ("blocks = []\nwhile True: blocks.append(bytearray(8 << 20))", PATIENT, Status.MEMORY),
    ("while True: pass", TIGHT, Status.TIMEOUT),
    ("while True: print('x' * 10000)", PATIENT, Status.OUTPUT_LIMIT),
    (
        "import os, time\nfor pid in (-1, 1):\n    try: os.kill(pid, 9)\n    except OSError: pass\ntime.sleep(60)",
        TIGHT,
        Status.TIMEOUT,
    ),
)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    with LocalSandbox(Limits(wall_s=30, memory_bytes=256 * MIB), max_concurrent=16) as made:
        yield made


def hostile(number: int) -> tuple[str, Limits, Status] | None:
    """Every tenth, each kind in its turn."""
    return HOSTILE[number // 10 % len(HOSTILE)] if number % 10 == 9 else None


def request(number: int) -> dict:
    if found := hostile(number):
        return {"code": found[0], "limits": found[1]}
    return {"code": f"print(sum(range({number})) + int(input()))", "stdin": f"{number}\n"}


def check(number: int, result: Result) -> None:
    if found := hostile(number):
        assert result.status is found[2], (number, result.status, result.message)
    else:
        # 0 + 1 + ... + (n - 1) + n
        assert (result.status, result.stdout) == (Status.OK, f"{number * (number + 1) // 2}\n"), (number, result)


def test_200_at_once_from_threads_with_every_tenth_hostile(sandbox: LocalSandbox) -> None:
    with ThreadPoolExecutor(NUM_RUNS) as pool:
        results = list(pool.map(lambda number: sandbox.run(**request(number)), range(NUM_RUNS)))
    for number, result in enumerate(results):
        check(number, result)


async def test_200_at_once_on_an_event_loop_with_every_tenth_hostile(sandbox: LocalSandbox) -> None:
    longest_pause, done = 0.0, False

    async def tick() -> None:
        nonlocal longest_pause
        while not done:
            before = standing_s()
            await asyncio.sleep(0.01)
            longest_pause = max(longest_pause, standing_s() - before)

    ticking = asyncio.create_task(tick())
    results = await asyncio.gather(*(sandbox.arun(**request(number)) for number in range(NUM_RUNS)))
    done = True
    await ticking
    for number, result in enumerate(results):
        check(number, result)
    assert longest_pause < 1.0  # the loop was never held up by a run


def held() -> dict[str, int]:
    """What this process and its children hold."""
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "processes": len(descendants_of(os.getpid())),
        "MiB": resident // MIB,
    }


def test_hundreds_of_calls_and_sessions_leave_nothing_behind() -> None:
    with LocalSandbox(Limits(wall_s=30, memory_bytes=256 * MIB), max_concurrent=4) as sandbox:

        def work(number: int) -> None:
            assert sandbox.run(f"print({number})", files={"f": b"x" * 100_000}, outputs=["f"]).ok
            if number % 5 == 0:
                with sandbox.session() as session:
                    assert session.run("import subprocess\nx = subprocess.Popen(['sleep', '60'])").ok
                    session.run("import sys; sys.exit(1)" if number % 2 else "x.poll()")

        def settled() -> dict[str, int]:
            """What is held beside the supervisors that wait for another call, of which there may be more or fewer."""
            zygote = sandbox._zygote
            assert zygote is not None
            deadline = time.monotonic() + 30
            while True:
                waiting = len(zygote._idle)
                too_many = len(descendants_of(zygote._process.pid)) - 1 - 2 * (SPARES + waiting)
                if too_many <= 0 or time.monotonic() > deadline:
                    break
                time.sleep(0.02)
            assert waiting <= sandbox.max_concurrent + ENOUGH_IDLE
            found = held()
            return {**found, "processes": max(0, too_many), "descriptors": found["descriptors"] - waiting}

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(40)))
            before = settled()
            list(pool.map(work, range(200)))
            after = settled()
    assert {**after, "MiB": 0} == {**before, "MiB": 0}
    assert after["processes"] == 0
    assert after["MiB"] - before["MiB"] < 16
