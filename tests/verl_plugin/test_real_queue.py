"""Dynamic sampling in both asynchronous modes over verl's own queue, in processes of a real Ray, without a training."""

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl")

from tests.end_to_end.training import REPOSITORY, environment
from tests.verl_plugin.real_queue import EPISODES, LONG, MODES, STEPS, TASKS, rewards_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_a_third_of_failing_tasks_stalls_no_mode_and_no_group_without_signal_is_sampled(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.verl_plugin.real_queue", str(tmp_path)]
    began = time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, cwd=REPOSITORY, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    print(f"{time.monotonic() - began:.0f} s")
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [each["mode"] for each in told] == list(MODES)
    for each in told:
        check(each)


def check(told: dict[str, Any]) -> None:
    """Check the account of a mode."""
    updates, taken, without = MODES[told["mode"]][1], Counter[int](), 0
    assert len(told["steps"]) == STEPS
    for number, step in enumerate(told["steps"], start=1):
        assert len(step["updates"]) == updates
        for episodes in step["updates"]:
            tasks = {task for task, _ in episodes}
            assert len(tasks) == TASKS // updates
            # both episodes of each, one right and one wrong
            assert sorted(map(tuple, episodes)) == sorted((task, reward) for task in tasks for reward in (0.0, 1.0))
            taken.update(tasks)
            # drawn in the first step or before it
            assert LONG not in tasks or number > 1
        found = step["metrics"]
        assert found["env/groups/with_signal"] == TASKS
        without += found["env/groups/without_signal"]
        # each episode of a group that failed is counted, in the step that replaces it
        assert found["env/groups/without_signal/infrastructure"] * EPISODES == len(step["failures"])
    assert set(taken.values()) == {1}
    assert taken[LONG] == 1
    # every task that was drawn has been taken or replaced, or is in play, and nothing else is in the queue
    in_play = [key for key in told["left"] if "_" not in key]
    assert told["drawn"] == len(taken) + without + len(in_play)
    assert all(key.split("_")[0] in in_play for key in told["left"])
    # both ways to fail were played: an environment's word, and a worker that raised
    failed = Counter(reason for step in told["steps"] for reason in step["failures"])
    assert set(failed) == {"env_error", "worker_error"}
    ended = sum(rewards_of(task) is None for task in range(told["drawn"]))
    assert ended - len(in_play) <= failed.total() // EPISODES <= ended
    assert failed.total() // EPISODES >= told["drawn"] // 3 - len(in_play)
