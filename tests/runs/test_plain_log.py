"""The log of a run: lines as a run's processes write them."""

import subprocess
import sys
import time
from pathlib import Path

from trm_agent.runs import plain_log
from trm_agent.runs.plain_log import Copies

# the copy is at work, and then its folder is removed
REFUSED = """
import shutil, time
while "of a child" not in Path(sys.argv[1], "log.txt").read_text():
    time.sleep(0.02)
shutil.rmtree(sys.argv[1])
"""
THREADS = "WARNING:2026-11-28 22:15:41,{:03d}:target_num_threads 8 should not exceed total physical CPU cores 2."
# what a run's process does to its own output: in a process of its own
COMMAND = """
import os, subprocess, sys
from pathlib import Path
from trm_agent.runs import plain_log
out = os.fdopen(os.dup(1), "w", buffering=1)
plain_log.start(Path(sys.argv[1]) / "log.txt")
print("\\x1b[36m(Worker pid=12)\\x1b[0m a line of a worker", flush=True)
subprocess.run(["sh", "-c", "echo of a child; echo bar 1 >&2; printf 'no end'"])
print("on the screen", file=out)
if sys.argv[2:]:
    os.abort()
"""


def told(*lines: str) -> list[str]:
    copies = Copies()
    return [text.decode() for line in lines if (text := copies.told(line.encode())) is not None]


def test_a_thousand_equal_lines_are_six() -> None:
    names = ("AgentLoopWorkerTQ pid=24710", "WorkerDict pid=24242, ip=192.0.2.2")
    lines = [f"\x1b[36m({names[number % 2]})\x1b[0m {THREADS.format(number % 1000)}" for number in range(1000)]
    found = told(*lines)
    # the first three, the 10th, the 100th, the 1000th; whoever wrote them, and when
    assert len(found) == 6
    assert found[0] == f"(AgentLoopWorkerTQ pid=24710) {THREADS.format(0)}"
    assert [line.rpartition(" [")[2] for line in found[3:]] == [f"{number} times so far]" for number in (10, 100, 1000)]


def test_lines_with_numbers_of_their_own_and_tracebacks_stay() -> None:
    steps = [f"step {number}: loss of the policy 0.25" for number in range(9)]
    assert told(*steps) == steps
    frames = ['  File "/home/me/my_env.py", line 12, in render', "    return self.rows[0] if self.rows else None"] * 9
    assert told(*frames) == frames


def test_a_progress_bar_is_its_last_state() -> None:
    assert told("Training:   0%|  | 0/2\rTraining:  50%|# | 1/2\rTraining: 100%|##| 2/2") == ["Training: 100%|##| 2/2"]


def test_a_run_whose_folder_is_removed_ends_without_a_wait(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    command = [sys.executable, "-c", COMMAND + REFUSED, str(run)]
    took: list[float] = []
    while len(took) < 3 and (not took or took[-1] >= plain_log._WAIT_SECONDS):  # others may have had the processors
        began = time.monotonic()
        assert subprocess.run(command, capture_output=True, timeout=60).returncode == 0
        took.append(time.monotonic() - began)
    assert took[-1] < plain_log._WAIT_SECONDS


def test_everything_is_in_the_log_when_the_process_is_over_and_after_a_crash(tmp_path: Path) -> None:
    for crash, code in (([], 0), (["crash"], -6)):
        run = tmp_path / str(code)
        run.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, str(run), *crash], capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stdout) == (code, "on the screen\n"), done.stderr
        # after a crash nobody waits for the copy
        until = time.monotonic() + 30
        while crash and "no end" not in (run / "log.txt").read_text() and time.monotonic() < until:
            time.sleep(0.02)
        lines = (run / "log.txt").read_text().splitlines()
        assert lines[:3] == ["(Worker pid=12) a line of a worker", "of a child", "bar 1"]
        assert "no end" in lines[3]
