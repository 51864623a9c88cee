"""Memory of processes that are ending shows in no size: it counts, and the others wait until it is given back."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trm_envs.sandbox.guest import memory

MIB = 1 << 20
PAGES = MIB // 4096
LIMIT = 100 * MIB


@pytest.fixture
def proc(tmp_path: Path) -> Iterator[int]:
    """A folder like /proc, empty."""
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def put(
    proc: int, pid: int, state: str, mib: int | None, *, exe: int = 4, faults: int = 0, tid: int = 0, size: int = 1
) -> None:
    """Write what the kernel shows of a process, or of one thread of it; without memory if `mib` is None."""
    folder = Path(f"/proc/self/fd/{proc}/{pid}").resolve()
    (folder / "task").mkdir(parents=True, exist_ok=True)
    for place in [folder / "task" / str(tid or pid), *([] if tid else [folder])]:
        place.mkdir(exist_ok=True)
        shown = {"VmSize": size << 10, "RssAnon": (mib or 0) << 10, "VmExe": exe, "VmPTE": 0, "VmSwap": 0}
        sizes = "".join(f"{name}:\t{value:8} kB\n" for name, value in shown.items())
        text = f"Name:\tx\nState:\t{state} (x)\n" + ("" if mib is None else sizes) + "Threads:\t1\n"
        (place / "status.new").write_text(text)
        (place / "status.new").rename(place / "status")  # whole at every reading
        (place / "stat").write_text(f"{pid} (x) {state} 1 1 1 0 -1 0 {faults} 0 0 0 0 0\n")


def used(use: memory.Use, proc: int, is_held: bool = False, wait_s: float = 60.0) -> int:
    return use.of_all(proc, LIMIT, False, is_held, time.monotonic() + wait_s)


@pytest.mark.parametrize("state", "RDS")
def test_what_was_seen_of_a_process_counts_until_it_has_ended(proc: int, state: str) -> None:
    use = memory.Use()
    put(proc, 7, "R", 60)
    assert used(use, proc) == 60 * MIB
    put(proc, 7, state, None)
    assert used(use, proc) == 60 * MIB
    put(proc, 7, "Z", None)
    assert used(use, proc) == 0


def test_of_a_process_that_was_not_seen_its_faults_count(proc: int) -> None:
    put(proc, 7, "R", None, faults=50 * PAGES)
    assert used(memory.Use(), proc) == 50 * MIB


def test_memory_that_came_after_the_last_look_counts(proc: int) -> None:
    use = memory.Use()
    put(proc, 7, "R", 5, faults=5 * PAGES)
    assert used(use, proc) == 5 * MIB
    put(proc, 7, "R", None, faults=70 * PAGES)
    assert used(use, proc) == 70 * MIB


def test_a_process_that_takes_another_program_counts_as_before(proc: int) -> None:
    use = memory.Use()
    put(proc, 7, "R", 60)
    used(use, proc)
    put(proc, 7, "R", 0, exe=0, faults=1 << 40)  # nor are these looked at: who reads `stat` would wait for it
    now = used(use, proc, wait_s=0.05)
    assert 60 * MIB <= now <= LIMIT  # it may have grown since
    assert used(use, proc, wait_s=0.05) == now
    put(proc, 7, "R", 1)
    assert used(use, proc) == MIB


def test_a_process_that_only_looks_so_counts_for_what_it_shows(proc: int) -> None:
    use = memory.Use()
    put(proc, 7, "R", 5, size=9, exe=0)  # more than arguments take
    assert used(use, proc) == 5 * MIB
    put(proc, 7, "R", 60, size=100, exe=0)
    assert used(use, proc) == 60 * MIB
    put(proc, 8, "R", 5, size=6, exe=0)  # it may be, until it is stopped
    assert used(use, proc, wait_s=0.05) >= 65 * MIB
    put(proc, 8, "T", 5, size=6, exe=0)
    assert used(use, proc) == 65 * MIB


def test_the_last_thread_gives_back_what_an_ended_first_one_leaves(proc: int) -> None:
    put(proc, 7, "Z", None, faults=40 * PAGES)
    assert used(memory.Use(), proc) == 0
    put(proc, 7, "R", None, tid=8)
    assert used(memory.Use(), proc) == 40 * MIB
    put(proc, 7, "S", 30, tid=9)  # there is more to come from a third, which shows it
    assert used(memory.Use(), proc) == 30 * MIB


def test_all_wait_for_those_that_are_ending_where_they_hold_too_much(
    proc: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def end_at_the_third(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            put(proc, 7, "Z", None)

    monkeypatch.setattr(memory.time, "sleep", end_at_the_third)
    use = memory.Use()
    put(proc, 6, "S", 50)
    put(proc, 7, "R", None, faults=60 * PAGES)
    assert used(use, proc) == LIMIT  # nothing is left until the next look, and nobody is killed
    assert len(waits) == 3
    assert used(use, proc) == 50 * MIB


def test_nobody_waits_longer_than_the_call_lasts(proc: int) -> None:
    put(proc, 6, "S", 50)
    put(proc, 7, "R", None, faults=60 * PAGES)
    assert used(memory.Use(), proc, wait_s=0.05) == LIMIT


def test_a_memory_group_counts_them_itself(proc: int) -> None:
    put(proc, 7, "R", None, faults=60 * PAGES)
    assert used(memory.Use(), proc, is_held=True) == 0
