"""The last lines of a session that did not reach the run's last step, and its exit code."""

import contextlib
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from trm_agent.models.failure import WarmStartFailed
from trm_agent.runs.data_text import printable
from trm_agent.runs.endings.explain import UNKNOWN, explain, second_line
from trm_agent.runs.endings.facts import Facts, gather, memory, oom_kills
from trm_agent.runs.endings.stopping import StopRequested, StopSignals, exit_code, forget_stop
from trm_agent.runs.endings.told import one_line, raised_in
from trm_agent.runs.folder import LOG_FILE, RunFolder, checkpoint_step
from trm_agent.runs.reader import is_reader_gone
from trm_agent.runs.sessions import end_session

FAILURE = 1
CAUSE_FILE = ".cause"
_LOG_BYTES = 400_000
# Ray and the fork server tell of a death a moment after the driver has noticed it
_LOG_DELAY_S = 1.0


@dataclass(frozen=True)
class Opened:
    """What a session found at its start."""

    path: Path
    """Folder of the run."""
    model: str
    """Folder of the model, or its hub id."""
    checkpoint_bytes: int | None
    """Bytes of a checkpoint; None if they are not known."""
    log_size: int
    """Bytes of the log before this session."""
    oom_kills: int
    """Processes that the kernel had killed for memory."""


def open_session(folder: RunFolder, model: str) -> Opened:
    """Look at the run before the session begins, and forget what an earlier one left for its own end."""
    path = folder.path
    forget_stop(path)
    (path / CAUSE_FILE).unlink(missing_ok=True)
    log = path / LOG_FILE
    size = log.stat().st_size if log.exists() else 0
    return Opened(path, model, folder.checkpoint_bytes, size, oom_kills())


def record_cause(path: Path, cause: str) -> None:
    """Leave the cause for the command, from a process that ends without an exception of its own."""
    with contextlib.suppress(OSError):
        (path / CAUSE_FILE).write_text(cause + "\n", encoding="utf-8")


def close_session(error: BaseException, opened: Opened, stop: StopSignals, out: IO[str]) -> int:
    """Print why a session ended, in two lines, and return its exit code.

    Args:
        error: what the command's process caught.
        opened: the state at the session's start.
        stop: the signals that came.
        out: the screen.
    """
    with contextlib.suppress(OSError):
        end_session(opened.path, time.time())
    step = _step(opened.path)
    resume = f"the same command resumes it after step {step}" if step else "the same command begins it anew"
    if stop.number is not None and _is_asked_for(error):
        print(f"the run stopped: {_how(error, stop)}\n{resume}", file=out)
        return exit_code(stop.number)
    if isinstance(error, KeyboardInterrupt):
        print(f"the run stopped: Ctrl-C\n{resume}", file=out)
        return FAILURE
    time.sleep(_LOG_DELAY_S)
    told, log = _told(error, opened.path), _log_of(opened)
    facts = gather(opened.path, opened.model, opened.checkpoint_bytes, opened.oom_kills)
    ending = explain(told, log, facts)
    second = second_line(ending, step, str(opened.path / LOG_FILE))
    print(f"the run stopped: {one_line(ending.cause)}\n{second}", file=out)
    with contextlib.suppress(OSError):
        # into the log, whose disk may be full
        traceback.print_exception(error)
        print(f"cause: {ending.name}", flush=True)
    return FAILURE


def close_command(error: BaseException) -> int:
    """Print why the command ended before the log of a run was opened, in two lines, and return its exit code.

    Raises:
        BrokenPipeError: nobody reads what the command prints.
    """
    if isinstance(error, BrokenPipeError) and is_reader_gone():
        raise error
    if isinstance(error, KeyboardInterrupt):
        print("stopped: Ctrl-C, before the run began", file=sys.stderr)
        return FAILURE
    if isinstance(error, WarmStartFailed):
        print(printable(f"error: stopped before the run began: {error}"), file=sys.stderr)
        return FAILURE
    told = "".join(traceback.format_exception(error))
    ending = explain(told, "", Facts("a disk", "see df -h", memory(), 0, "the model"))
    if ending.name == UNKNOWN:
        sys.stderr.write(told)
    cause = printable(one_line(ending.cause))
    print(f"error: stopped before the run began: {cause}\n{ending.remedy}", file=sys.stderr)
    return FAILURE


def _how(error: BaseException, stop: StopSignals) -> str:
    """Return the signal, and what the trainer said of the place where it stopped."""
    words = [each.message for each in raised_in(str(error)) if each.type == StopRequested.__name__]
    return f"{signal.Signals(stop.number or 0).name} {words[-1]}" if words else stop.how


def _is_asked_for(error: BaseException) -> bool:
    """Whether an exception is the answer to a signal; Ray hands on the trainer's in a class of its own."""
    return isinstance(error, SystemExit | KeyboardInterrupt) or StopRequested.__name__ in type(error).__name__


def _told(error: BaseException, path: Path) -> str:
    text = "".join(traceback.format_exception(error))
    with contextlib.suppress(OSError):
        text = (path / CAUSE_FILE).read_text(encoding="utf-8") + text
    return text


def _log_of(opened: Opened) -> str:
    """Return the end of the log of this session."""
    try:
        with (opened.path / LOG_FILE).open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(opened.log_size, end - _LOG_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _step(path: Path) -> int:
    try:
        return checkpoint_step(path)
    except (OSError, ValueError):
        return 0
