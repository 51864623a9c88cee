"""From one checkpoint to the next on the real stack: killed, resumed, extended, exported, and begun from elsewhere.

One run hands its checkpoint on, since each training costs half a minute of start-up.
"""

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.end_to_end.adam import assert_next_step, fresh, stored
from tests.end_to_end.exported import assert_greedy_outputs_are_the_engines
from tests.end_to_end.training import assert_complete, command, environment, finish, steps, train
from trm_agent.runs.folder import saved_steps
from trm_agent.tasks import TRAIN, task_seed
from trm_agent.verl_plugin.driver.episode_metrics import fingerprint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
WORKER = "actor_rollout_ref.rollout.engine_kwargs.vllm.worker_extension_cls"
STEPS = "trainer.total_training_steps"
LR = "actor_rollout_ref.actor.optim.lr"
# of the experiment's cosine; so small that the last policy still wins and loses: groups of one outcome have no gradient
RATE = 1e-4


def test_a_run_goes_on_from_its_checkpoints_and_others_begin_with_them(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert_resumes_after_a_kill_with_the_same_data(run)
    assert_greedy_outputs_are_the_engines(f"{run}@4", tmp_path)
    assert_is_extended_with_a_new_schedule(run)
    assert_another_run_goes_on_from(run, tmp_path / "further")
    assert_another_run_begins_with_the_weights_alone(run, tmp_path / "anew")


def assert_resumes_after_a_kill_with_the_same_data(run: Path) -> None:
    overrides = (f"{STEPS}=4", "trainer.test_freq=4", f"{LR}={RATE}")
    driver = subprocess.Popen(command(run, *overrides), stdout=subprocess.DEVNULL, env=environment())
    deadline = time.monotonic() + 400
    tracker = run / "checkpoints" / "latest_checkpointed_iteration.txt"
    while not (tracker.exists() and tracker.read_text() in ("2", "3")):
        assert driver.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint in time"
        time.sleep(0.1)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    done = train(run, *overrides)
    assert "resumed after step" in done.stdout
    rows = steps(run)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    # an unbroken run takes tasks 0, 1 then 2, 3 and so on
    assert data_of(rows) == [data_of_step(step) for step in (1, 2, 3, 4)]
    # float32 on both sides: the engines agree on every token after each weight synchronisation, from step 2 on after an
    # update, and after the first of the run that goes on
    assert max(largest_log_ratio(row) for row in rows) < 1e-4
    first = rows[0]
    assert first["actor/grad_norm"] > 0
    assert first["trm/acceptance"] > 0.99
    assert first["trm/num_sequences"] == 16
    assert first["env/num_episodes"] == 16
    assert 0 < first["env/model_token_frac"] < 1
    assert sum(share for name, share in first.items() if name.startswith("env/ending")) == pytest.approx(1)
    # of two tasks played greedily, one of each horizon
    assert [rows[3][f"env/val_num_episodes/greedy_h{horizon}"] for horizon in (4, 8)] == [1, 1]
    log = (run / "log.txt").read_text(errors="replace")
    assert "engine: FSDP True, backend gloo" in log
    assert "RecordingServer" in log
    assert_complete(run, done.stdout, num_steps=4, num_sessions=2)
    assert saved_steps(run) == [3, 4]
    files = {path.name for path in run.iterdir()}
    assert {"config.yaml", "git.json", "metrics.jsonl", "log.txt", "curves.png", "checkpoints"} <= files
    assert any(name.startswith("events.out.tfevents") for name in files)
    again = subprocess.run(command(run, *overrides), capture_output=True, text=True, timeout=60, env=environment())
    assert (again.returncode, "the run is complete" in again.stdout) == (0, True)


def assert_is_extended_with_a_new_schedule(run: Path) -> None:
    extend = [sys.executable, "-m", "trm_agent.cli", "train", "--extend", str(run), f"{STEPS}=5"]
    done = finish([*extend, "--schedule", "restart"], run)
    assert "rate schedule restarted: cosine over steps 5 to 5" in done.stdout
    rows = steps(run)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert data_of(rows[4:]) == [data_of_step(5)]
    assert largest_log_ratio(rows[4]) < 1e-4
    # a cosine that begins anew takes its first step at the full rate; three quarters of the one of four had passed
    rates = [rows[3]["actor/lr"], rows[4]["actor/lr"]]
    assert rates == pytest.approx([RATE * (1 + math.cos(0.75 * math.pi)) / 2, RATE])
    assert_next_step(stored(run, 4), stored(run, 5), RATE)
    assert_complete(run, done.stdout, num_steps=5, num_sessions=3)
    (extension,) = json.loads((run / "summary.json").read_text())["extended"]
    assert (extension["after_step"], extension["fields"][STEPS], extension["schedule"]) == (4, [4, 5], "restart")


def assert_another_run_goes_on_from(run: Path, folder: Path) -> None:
    checkpoint = run / "checkpoints" / "global_step_4"
    mode = ("trainer.resume_mode=resume_path", f"trainer.resume_from_path={checkpoint}")
    done = train(folder, f"{STEPS}=5", "trainer.test_freq=5", f"{LR}={RATE}", *mode)
    assert f"new run, goes on after step 4 of {checkpoint}" in done.stdout
    (row,) = [row for row in steps(folder) if "actor/lr" in row]
    assert row["step"] == 5
    assert data_of([row]) == [data_of_step(5)]
    assert largest_log_ratio(row) < 1e-4
    # the schedule of five steps, of which four have passed
    assert_next_step(stored(run, 4), stored(folder, 5), RATE * (1 + math.cos(0.8 * math.pi)) / 2)
    assert_complete(folder, done.stdout, num_steps=5)


def assert_another_run_begins_with_the_weights_alone(run: Path, folder: Path) -> None:
    """Its engine drops each weight synchronisation after the first, which has to be seen from the second step on."""
    broken = f"{WORKER}=tests.end_to_end.broken_sync.BrokenSyncExtension"
    more = (f"{LR}=5e-4", "trainer.test_freq=3", "trainer.max_actor_ckpt_to_keep=null")
    done = train(folder, broken, f"{STEPS}=3", *more, f"run.init_from={run}@4")
    assert f"new run, weights of {run}@4" in done.stdout
    first, second, third = steps(folder)
    assert data_of([first, second, third]) == [data_of_step(step) for step in (1, 2, 3)]
    assert largest_log_ratio(first) < 1e-4
    assert largest_log_ratio(second) > 1e-2
    assert largest_log_ratio(third) > 1e-2
    assert_next_step(fresh(stored(run, 4)), stored(folder, 1), 5e-4)


def largest_log_ratio(row: dict) -> float:
    """Largest |log pi_theta - log pi_roll| over the tokens of a step, nats."""
    return max(abs(math.log(row["trm/ratio_min"])), abs(math.log(row["trm/ratio_max"])))


def data_of(rows: Sequence[dict]) -> list[int]:
    """Return the fingerprint of each step's tasks."""
    return [int(row["run/data_fingerprint"]) for row in rows]


def data_of_step(step: int) -> int:
    """Return the fingerprint of the tasks of a step of a run that took two a step from the first on."""
    return fingerprint(task_seed(0, TRAIN, 2 * (step - 1) + task) for task in range(2))
