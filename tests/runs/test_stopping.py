"""A stop on request, and the exit codes and last lines of a session, without Ray."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trm_agent.runs.endings import closing
from trm_agent.runs.endings.closing import CAUSE_FILE, close_command, close_session, open_session, record_cause
from trm_agent.runs.endings.stopping import (
    SIGNALS,
    STOP_FILE,
    StopSignals,
    exit_code,
    owes_validation,
    stop_requested,
)
from trm_agent.runs.folder import METRICS_FILE, STARTUP_FILE, RunFolder
from trm_agent.runs.screen import VALIDATION_FAILURES

# a command that finishes its step: the group's other process stands for one of Ray's daemons
COMMAND = """
import subprocess, sys, time
from pathlib import Path
from trm_agent.runs.endings.stopping import StopSignals, exit_code, stop_requested
run = Path(sys.argv[1])
stop = StopSignals(run, lambda line: print(line, flush=True))
stop.listen()
daemon = subprocess.Popen(["sleep", "60"], start_new_session=True)
print("ready", flush=True)
try:
    while not stop_requested(run):
        time.sleep(0.05)
    time.sleep(0.3)
    print("saved", daemon.poll(), flush=True)
    sys.exit(exit_code(stop.number))
finally:
    daemon.kill()
"""


@pytest.fixture
def handlers() -> Iterator[None]:
    """The handlers of the signals, put back afterwards."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def training(path: Path) -> Path:
    """A folder of a run whose start-up is over."""
    (path / STARTUP_FILE).write_text('{"phase": "agent loops", "time": 1.0}\n')
    return path


def test_a_signal_to_the_whole_group_ends_the_command_after_its_step(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COMMAND, str(training(tmp_path))]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    # as `timeout` does: to its child, and then to the child's group
    os.kill(started.pid, signal.SIGTERM)
    os.killpg(started.pid, signal.SIGTERM)
    rest, _ = started.communicate(timeout=30)
    assert rest.splitlines() == [
        "SIGTERM: the run ends after this step, which is saved; a second signal ends it at once",
        "saved None",
    ]
    assert started.returncode == 143


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_the_exit_code_is_128_and_the_signals_number(number: signal.Signals, code: int) -> None:
    assert exit_code(number) == code


@pytest.mark.usefixtures("handlers")
def test_a_second_signal_ends_at_once_unless_it_is_the_same_one(tmp_path: Path) -> None:
    clock, lines = [100.0], list[str]()
    stop = StopSignals(training(tmp_path), lines.append, lambda: clock[0])
    stop.listen()
    os.kill(os.getpid(), signal.SIGUSR1)
    clock[0] = 101.0
    os.kill(os.getpid(), signal.SIGUSR1)
    assert (len(lines), stop.number, stop_requested(tmp_path)) == (1, signal.SIGUSR1, True)
    clock[0] = 103.0
    with pytest.raises(SystemExit) as left:
        os.kill(os.getpid(), signal.SIGTERM)
    assert left.value.code == 138
    assert stop.how == "SIGTERM, the second signal, at once"


@pytest.mark.usefixtures("handlers")
def test_before_the_first_step_there_is_nothing_to_finish(tmp_path: Path) -> None:
    stop = StopSignals(tmp_path, print)
    stop.listen()
    with pytest.raises(SystemExit) as left:
        os.kill(os.getpid(), signal.SIGTERM)
    assert (left.value.code, stop.how) == (143, "SIGTERM before the first step of this session")


@pytest.mark.usefixtures("handlers")
def test_a_folder_that_cannot_be_written_stops_the_command_at_once(tmp_path: Path) -> None:
    stop = StopSignals(tmp_path / "gone", print)
    stop.listen()
    with pytest.raises(SystemExit):
        os.kill(os.getpid(), signal.SIGTERM)
    assert "gone cannot be written (No such file or directory)" in stop.how


def test_a_resumed_run_makes_up_for_a_validation_that_a_stop_left_out() -> None:
    rows = [{"step": 0, VALIDATION_FAILURES: 0.0}, {"step": 20}, {"step": 40, VALIDATION_FAILURES: 0.0}]
    assert owes_validation(rows, 20, 20, 100)
    assert not owes_validation(rows, 40, 20, 100)
    assert not owes_validation([*rows, {"step": 30}], 30, 20, 100)
    # a checkpoint of another run
    assert not owes_validation([], 20, 20, 100)
    # the last step has one whatever its number
    assert owes_validation([*rows, {"step": 45}], 45, 20, 45)
    assert not owes_validation([*rows, {"step": 45}], 45, -1, 45)


def closed(path: Path, error: BaseException, number: int | None = None) -> tuple[int, list[str]]:
    """The exit code and the lines of a session that an exception ended."""
    opened = open_session(RunFolder(path, "new", 0), "org/some-7b")
    if isinstance(error, CauseLeft):
        record_cause(path, str(error))
    stop, out = StopSignals(path, print), io.StringIO()
    stop.number, stop.how = number, "SIGTERM after the last step"
    code = close_session(error, opened, stop, out)
    return code, out.getvalue().splitlines()


class CauseLeft(Exception):
    """An exception of a process that left the cause in the folder."""


def test_the_last_lines_of_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "_LOG_DELAY_S", 0.0)
    (tmp_path / METRICS_FILE).write_text(json.dumps({"step": 3}) + "\n")
    (tmp_path / "checkpoints" / "global_step_3" / "actor").mkdir(parents=True)
    (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("3")
    words = 'ray::x\n  File "a.py", line 3, in f\nStopRequested: after step 3, which is saved'
    remote_stop = type("RayTaskError(StopRequested)", (Exception,), {})(words)
    assert closed(tmp_path, remote_stop, signal.SIGTERM) == (
        143,
        ["the run stopped: SIGTERM after step 3, which is saved", "the same command resumes it after step 3"],
    )
    assert closed(tmp_path, KeyboardInterrupt()) == (
        1,
        ["the run stopped: Ctrl-C", "the same command resumes it after step 3"],
    )
    # the step that a signal let finish failed: that is told, not the signal
    code, lines = closed(tmp_path, OSError(28, "No space left on device"), signal.SIGTERM)
    assert code == 1
    assert lines[0].startswith(f"the run stopped: no space left on {tmp_path}: ")
    assert lines[1].startswith("make room, or keep fewer checkpoints; then the same command resumes it after step 3 (")
    assert len(lines) == 2
    code, lines = closed(
        tmp_path, CauseLeft("the weight synchronisation took longer than 6 s (run.weight_sync_timeout_s); giving up")
    )
    assert lines[0].startswith("the run stopped: the weight synchronisation took longer than 6 s")


def test_an_end_before_the_run_is_told_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert close_command(OSError(28, "No space left on device", "cache/x")) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "error: stopped before the run began: no space left on cache/x: it is full",
        "make room, or keep fewer checkpoints",
    ]
    assert close_command(KeyboardInterrupt()) == 1
    assert "Ctrl-C" in capsys.readouterr().err


def test_a_session_forgets_the_requests_of_the_one_before(tmp_path: Path) -> None:
    for name in (STOP_FILE, CAUSE_FILE):
        (tmp_path / name).write_text("x")
    open_session(RunFolder(tmp_path, "new", 0), "m")
    assert not stop_requested(tmp_path)
    assert not (tmp_path / CAUSE_FILE).exists()
