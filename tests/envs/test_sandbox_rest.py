"""Whether the threads of a paused session rest, told from the kernel's own words."""

import os
import signal
import time
from pathlib import Path

import pytest

from trm_envs.sandbox.guest import rest, seccomp

VFORK = next(seccomp.number_of(name) for name in ("vfork", "clone") if seccomp.number_of(name) >= 0)


def state(folder: Path, letter: str, call: str | None) -> bool | None:
    """Return whether one thread in this state, in this system call, rests; None if it waits and will stop."""
    task = folder / "7" / "task" / "7"
    task.mkdir(parents=True, exist_ok=True)
    (task / "status").write_text(
        f"Name:\tx\nState:\t{letter} (x)\nvoluntary_ctxt_switches:\t1\nnonvoluntary_ctxt_switches:\t1\n"
    )
    (task / "syscall").unlink(missing_ok=True)
    if call is not None:
        (task / "syscall").write_text(f"{call} 0x0 0x0 0x0 0x0 0x0 0x0 0x7f 0x7f\n")
    proc = os.open(folder, os.O_RDONLY)
    try:
        threads = rest.look(proc)
    finally:
        os.close(proc)
    is_waiting = rest.is_still(threads, b"TtZXDd")
    return None if is_waiting and not rest.is_still(threads) else rest.is_still(threads)


@pytest.mark.parametrize("letter", "TtZX")
def test_who_is_stopped_or_has_ended_rests(tmp_path: Path, letter: str) -> None:
    assert state(tmp_path, letter, "running") is True


@pytest.mark.parametrize("letter", "RSI")
def test_who_runs_or_sleeps_does_not(tmp_path: Path, letter: str) -> None:
    assert state(tmp_path, letter, "0") is False


def test_who_waits_for_a_child_rests_and_who_waits_for_a_disk_is_waited_for(tmp_path: Path) -> None:
    assert state(tmp_path, "D", str(VFORK)) is True
    assert state(tmp_path, "D", "0") is None  # reads
    assert state(tmp_path, "D", "running") is None
    assert state(tmp_path, "D", None) is True  # a kernel that does not tell


def test_a_thread_that_waits_for_a_disk_is_waited_for_ten_times_as_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    monkeypatch.setattr(rest, "signal_all", sent.append)
    monkeypatch.setattr(rest, "MAX_STOPS", 3)
    turns = []
    for letter, call in (("D", "0"), ("R", "running")):
        state(tmp_path, letter, call)
        proc = os.open(tmp_path, os.O_RDONLY)
        looks: list[int] = []
        assert rest.stop(proc, lambda looks=looks: looks.append(1)) == {}  # type: ignore[misc]
        os.close(proc)
        turns.append(len(looks))
    assert turns == [30, 3]
    assert sent.count(9) == 2


def born_stopped(proc: int) -> int:
    """Return a child that was stopped before it ran, as one that was being forked then."""
    for _ in range(1000):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.kill(pid, signal.SIGSTOP)
        if os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1]):
            if rest._is_in_fork(proc, str(pid)):
                return pid
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    pytest.skip("every child runs before its parent here")


def test_one_that_was_being_forked_when_all_were_let_go_on_goes_on_too(monkeypatch: pytest.MonkeyPatch) -> None:
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    before = time.clock_gettime(time.CLOCK_BOOTTIME) - 0.1
    pid = born_stopped(proc)
    try:
        monkeypatch.setattr(rest, "processes", lambda _: [str(pid)])
        for let_go in ([], [before]):  # nobody was ever stopped, or the last time before it was begun
            monkeypatch.setattr(rest, "_let_go_s", let_go)
            rest.wake_newborn(proc)
            assert os.waitpid(pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED) == (0, 0)
            assert rest.is_stopped(proc, pid)
        monkeypatch.setattr(rest, "_let_go_s", [time.clock_gettime(time.CLOCK_BOOTTIME)])
        rest.wake_newborn(proc)
        deadline = time.monotonic() + 10
        while rest.is_stopped(proc, pid) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert not rest.is_stopped(proc, pid)
    finally:
        os.close(proc)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
