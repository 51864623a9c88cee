"""Two commands that have the machine by turns."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.peers_turns import Turns, on_own_clock

pytestmark = pytest.mark.slow
# writes the moment every 5 ms of processor time, and so does a child of its own
STAMPS = """
import subprocess, sys, time
child = sys.argv[1:] and subprocess.Popen([sys.executable, "-c", sys.argv[1]])
ended = time.process_time() + 0.6
while time.process_time() < ended:
    until = time.process_time() + 0.005
    while time.process_time() < until:
        pass
    print(time.time(), flush=True)
if child:
    child.wait()
"""
TURN_S = 0.15


def test_one_is_stopped_with_its_children_while_the_other_runs(tmp_path: Path) -> None:
    turns = Turns(2, TURN_S)

    def run(name: str):
        command = [sys.executable, "-c", STAMPS, STAMPS]
        return turns.run(command, {}, tmp_path / name, 60.0)

    with ThreadPoolExecutor(2) as threads:
        ran = dict(zip("ab", threads.map(run, "ab"), strict=True))
    stamps = {name: sorted(map(float, (tmp_path / name).read_text().split())) for name in ran}
    for name, each in ran.items():
        assert len(each.pauses) >= 3
        assert each.processes == 2
        assert len(stamps[name]) > 100
        # a signal takes a moment
        inside = [at for at in stamps[name] for start, end in each.pauses if start + 0.05 < at < end]
        assert inside == []
        own = on_own_clock(stamps[name][-1], each.pauses) - each.started
        assert own < 0.75 * (stamps[name][-1] - each.started)


def test_a_command_that_fails_says_so_and_the_other_goes_on(tmp_path: Path) -> None:
    turns = Turns(2, TURN_S)
    codes = {"a": "raise SystemExit('no model')", "b": "import time; time.sleep(0.5); print('done')"}

    def run(name: str):
        try:
            return turns.run([sys.executable, "-c", codes[name]], {}, tmp_path / name, 60.0)
        except RuntimeError as error:
            return error

    with ThreadPoolExecutor(2) as threads:
        failed, done = threads.map(run, "ab")
    assert "no model" in str(failed)
    assert done.started > 0
    assert (tmp_path / "b").read_text() == "done\n"


def test_nobody_waits_for_a_command_that_does_not_come(tmp_path: Path) -> None:
    turns = Turns(2, TURN_S)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(turns.run, [sys.executable, "-c", ""], {}, tmp_path / "a", 60.0)
        while not turns._sides:
            time.sleep(0.01)
        turns.abandon(ValueError("prompts differ"))
        with pytest.raises(ValueError, match="prompts differ"):
            waiting.result(timeout=10)


def test_a_command_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    turns, began = Turns(1, TURN_S), time.time()
    with pytest.raises(TimeoutError, match="more than 0 s"):
        turns.run([sys.executable, "-c", "while True: pass"], {}, tmp_path / "a", 0.3)
    assert time.time() - began < 30


def test_a_moment_on_the_own_clock_leaves_out_the_pauses_before_it() -> None:
    pauses = [(10.0, 14.0), (20.0, 21.0)]
    assert [on_own_clock(moment, pauses) for moment in (9.0, 12.0, 15.0, 30.0)] == [9.0, 10.0, 11.0, 25.0]
