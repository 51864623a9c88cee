"""`trm eval` with the nano model in vLLM: greedy twice, and killed at a random moment against an unbroken run."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.end_to_end.training import REPOSITORY, environment
from trm_agent.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TASKS = ("--env", "chain_math", "--horizons", "2", "4", "12", "--tasks", "12")
TIMINGS = ("generate_s", "env_s", "total_s")


def rows(folder: Path) -> list[dict]:
    """The results without their timings, in the order of episodes."""
    found = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    kept = [{name: value for name, value in row.items() if name not in TIMINGS} for row in found]
    return sorted(kept, key=lambda row: (row["checkpoint"], row["task"], row["sample"]))


def figures(folder: Path) -> dict:
    """The summary without what was timed."""

    def untimed(value):
        if isinstance(value, dict):
            return {name: untimed(each) for name, each in value.items() if name not in TIMINGS}
        return [untimed(each) for each in value] if isinstance(value, list) else value

    return untimed(json.loads((folder / "summary.json").read_text()))


def test_greedy_decoding_twice_gives_the_same_results(tmp_path: Path) -> None:
    for name in ("first", "second"):
        assert main(["eval", "nano", *TASKS, "--temperature", "0", "--out", str(tmp_path / name)]) == 0
    first, second = rows(tmp_path / "first"), rows(tmp_path / "second")
    assert len(first) == 12
    assert first == second
    assert figures(tmp_path / "first") == figures(tmp_path / "second")


def test_killed_at_a_random_moment_and_run_again_it_equals_an_unbroken_run(tmp_path: Path) -> None:
    arguments = ["eval", "a=nano", *TASKS, "--samples", "4", "--concurrency", "8"]
    assert main([*arguments, "--out", str(tmp_path / "unbroken")]) == 0
    killed = tmp_path / "killed"
    number = random.randrange(1, 40)
    command = [sys.executable, "-m", "trm_agent.cli", *arguments, "--out", str(killed)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment(), cwd=REPOSITORY)
    deadline = time.monotonic() + 300
    results = killed / "results.jsonl"
    while not (results.exists() and results.read_bytes().count(b"\n") >= number):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, "no results in time"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = results.read_bytes().count(b"\n")
    assert number <= kept < 48
    assert not (killed / "summary.json").exists()
    # as if the kill had come in the middle of a line
    with results.open("ab") as file:
        file.write(b'{"checkpoint": "a", "env": "chain_m')
    assert main([*arguments, "--out", str(killed)]) == 0
    assert rows(killed) == rows(tmp_path / "unbroken")
    assert len(rows(killed)) == 48
    assert figures(killed) == figures(tmp_path / "unbroken")
    assert 0 < sum(row["success"] for row in rows(killed)) < 48
