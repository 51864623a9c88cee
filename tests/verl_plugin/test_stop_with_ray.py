"""A stop on request with a real Ray: its daemons, its signal handlers, its words on a worker that was killed."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from trm_agent.runs.folder import STARTUP_FILE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
# the command's process as `launch.run` makes it, with a trainer that does nothing
COMMAND = """
import os, sys, time
from pathlib import Path
import ray
from trm_agent.runs.endings.closing import close_session, open_session
from trm_agent.runs.endings.stopping import StopRequested, StopSignals, stop_requested
from trm_agent.runs.folder import RunFolder
from trm_agent.fork_server.ray_processes import in_their_own_session

run = Path(sys.argv[1])
stop = StopSignals(run, lambda line: print(line, flush=True))
opened = open_session(RunFolder(run, "new", 0), "nano")

@ray.remote
class Trainer:
    def pid(self):
        return os.getpid()

    def fit(self):
        while not stop_requested(run):
            time.sleep(0.05)
        time.sleep(1)
        raise StopRequested("after step 3, which is saved")

try:
    with in_their_own_session():
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        stop.listen()
        trainer, other = Trainer.remote(), Trainer.remote()
        fitting = trainer.fit.remote()
        print("pid", ray.get(other.pid.remote()), flush=True)
        if sys.argv[2] == "kill":
            waiting = other.fit.remote()
            os.kill(int(sys.stdin.readline()), 9)
            ray.get(waiting)
        ray.get(fitting)
except BaseException as error:
    sys.exit(close_session(error, opened, stop, sys.stdout))
"""


@contextlib.contextmanager
def started(run: Path, what: str) -> Iterator[tuple[subprocess.Popen, int]]:
    """The command in a process group of its own, and the process id of one of its actors."""
    (run / STARTUP_FILE).write_text('{"phase": "agent loops", "time": 1.0}\n')
    command = [sys.executable, "-c", COMMAND, str(run), what]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, text=True, start_new_session=True, **streams)
    assert process.stdout is not None
    try:
        word, number = process.stdout.readline().split()
        assert word == "pid"
        yield process, int(number)
    finally:
        process.kill()


def group(number: int) -> list[int]:
    """The processes of a process group."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError):
            found += [process.pid] if os.getpgid(process.pid) == number else []
    return found


def test_a_signal_to_the_group_lets_ray_finish_the_step(tmp_path: Path) -> None:
    with started(tmp_path, "stop") as (process, _):
        # Ray's daemons, which a signal would end, are elsewhere
        assert group(process.pid) == [process.pid]
        os.kill(process.pid, signal.SIGUSR1)
        os.killpg(process.pid, signal.SIGUSR1)
        out, _ = process.communicate(timeout=60)
    assert out.splitlines()[:2] == [
        "SIGUSR1: the run ends after this step, which is saved; a second signal ends it at once",
        "the run stopped: SIGUSR1 after step 3, which is saved",
    ]
    assert process.returncode == 138


def test_a_killed_actor_is_named(tmp_path: Path) -> None:
    with started(tmp_path, "kill") as (process, pid):
        # what the fork server says of its workers
        (tmp_path / "log.txt").write_text(f"fork server: worker {pid} was killed by signal 9 (SIGKILL)\n")
        out, _ = process.communicate(f"{pid}\n", timeout=60)
    assert "the run stopped: the process Trainer was killed by signal 9 (SIGKILL), " in out, out
    assert process.returncode == 1
