"""Runs the real command in its own process, small: the nano model, two tasks of eight episodes per step."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trm_agent.report.times import PHASES
from trm_agent.runs.folder import read_metrics

REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 420
SMALL = (
    "experiment=math_nano",
    "data.train_batch_size=2",
    "actor_rollout_ref.actor.ppo_mini_batch_size=2",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=16",
    "actor_rollout_ref.actor.optim.lr_warmup_steps=0",
    "actor_rollout_ref.rollout.n=8",
    # about half of the nano model's chains of two succeed: groups of eight have something to tell
    "env.train.horizons=[2]",
    "env.val.num_tasks=8",
    "env.val.greedy_tasks=2",
    "trainer.total_training_steps=2",
    "trainer.test_freq=2",
    "trainer.save_freq=1",
)


def command(run_dir: Path, *overrides: str) -> list[str]:
    """The command line of a small run."""
    return [sys.executable, "-m", "trm_agent.train", *SMALL, f"run.dir={run_dir}", *overrides]


def environment(path: Path = REPOSITORY) -> dict[str, str]:
    """The environment of a run; the repository on the path, so that workers find the tests' fakes."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(path), os.environ.get("PYTHONPATH"))))}


def train(run_dir: Path, *overrides: str, path: Path = REPOSITORY) -> subprocess.CompletedProcess:
    """Run to the end, in the run's parent folder."""
    return finish(command(run_dir, *overrides), run_dir, path)


def finish(given: list[str], run_dir: Path, path: Path = REPOSITORY) -> subprocess.CompletedProcess:
    """Wait for a command that trains in a folder; on failure the end of the log is in the exception."""
    done = subprocess.run(
        given, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, env=environment(path), cwd=run_dir.parent
    )
    if done.returncode != 0:
        log = run_dir / "log.txt"
        tail = log.read_text(errors="replace")[-3000:] if log.exists() else ""
        raise AssertionError(f"exit {done.returncode}\n{done.stdout}\n{done.stderr}\n{tail}")
    return done


def steps(run_dir: Path) -> list[dict]:
    """The rows of the training steps."""
    return [row for row in read_metrics(run_dir) if row["step"] > 0]


def assert_complete(run_dir: Path, stdout: str, num_steps: int, num_sessions: int = 1) -> None:
    """The run has told and written its success on held-out tasks before and after its steps, and lacks nothing."""
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (set(summary["success"]["before"]), set(summary["success"]["after"])) == ({"4", "8"}, {"4", "8"})
    told = (summary["steps"], summary["seed"], summary["sessions"], summary["lacks"])
    assert told == (num_steps, 0, num_sessions, [])
    assert "horizon 4" in stdout
    assert "held-out success" in stdout


def assert_waits_add_up(row: dict, is_synchronous: bool = True) -> None:
    """The times of a step fill it and no more, and each share of it has its place in them."""
    timed = {name: row.get(f"timing_s/{name}", 0.0) for names in PHASES.values() for name in names}
    step, waited = row["timing_s/step"], timed["start"] + timed["gen"]
    inside = sum(timed.values()) - timed["testing"]
    assert 0.5 * step < inside <= step
    assert row["run/trainer_idle"] == pytest.approx(waited / step)
    assert 0 <= row["run/servers_idle"] <= 1
    assert 0 <= row["run/queue_idle"] <= 1
    # absent where no server was busy
    assert row.get("run/turns_at_once", 1) >= 1
    if is_synchronous:
        # engines sample, and the queue holds something, while the trainer waits and at no other time; two clocks each
        assert 0 < 1 - row["run/servers_idle"] <= row["run/trainer_idle"] + 0.1
        assert 0 < 1 - row["run/queue_idle"] <= row["run/trainer_idle"] + 0.1


def assert_verls_loss_ran(row: dict) -> None:
    """One of verl's own losses made this row, and not ours."""
    assert row["actor/grad_norm"] >= 0
    assert "actor/pg_clipfrac" in row
    assert "trm/acceptance" not in row
