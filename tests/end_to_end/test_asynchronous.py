"""Asynchronous training on the real stack: each token has the log-prob of its recorded version, also after a kill."""

import sys
from pathlib import Path

import pytest

from tests.end_to_end.recorded_versions import (
    assert_metrics_tell_of_lags,
    assert_no_task_is_lost_or_trained_on_twice,
    assert_recorded_versions_sampled,
    kill_after_a_checkpoint,
    sequences,
)
from tests.end_to_end.training import SMALL, assert_waits_add_up, finish, steps

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STEPS, KILLED_AFTER = 5, 3
LOSS = "actor_rollout_ref.actor.policy_loss"
OVERRIDES = (
    # a short task and a long one in each step: the long ones go on over updates
    "env.train.horizons=[2,8]",
    "actor_rollout_ref.actor.optim.lr=2e-4",
    f"trainer.total_training_steps={STEPS}",
    f"trainer.test_freq={STEPS}",
    "trainer.max_actor_ckpt_to_keep=null",
    f"{LOSS}.dump.every=1",
    f"{LOSS}.dump.max_sequences=null",
)


def test_each_token_has_the_log_prob_of_the_version_that_is_recorded_for_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    asked = [sys.executable, "-m", "trm_agent.train", "experiment=math_nano_async", *SMALL[1:], *OVERRIDES]
    # distributions of resumed turns are joined
    given = [*asked, f"{LOSS}.trm.estimator=topk", f"run.dir={run}"]
    kill_after_a_checkpoint(given, run, KILLED_AFTER)
    finish(given, run)
    rows = sequences(run)
    assert sorted({row["step"] for row in rows}) == list(range(1, STEPS + 1))
    assert_recorded_versions_sampled(rows, run, STEPS)
    assert_no_task_is_lost_or_trained_on_twice(rows, STEPS)
    told = steps(run)
    assert_metrics_tell_of_lags(rows, told)
    for row in told:
        assert_waits_add_up(row, is_synchronous=False)


def test_so_it_is_with_rollout_servers_of_their_own_and_two_updates_a_step(tmp_path: Path) -> None:
    run = tmp_path / "run"
    asked = [sys.executable, "-m", "trm_agent.train", "experiment=math_nano_separate", *SMALL[1:], *OVERRIDES]
    given = [*asked, "actor_rollout_ref.actor.ppo_mini_batch_size=1", "env.val.num_tasks=2", f"run.dir={run}"]
    given += ["actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8", "env.val.greedy_tasks=0"]
    # its metrics have "max" in a name
    given += ["policy_loss=trm"]
    # a turn at a time, else the server has played all before a trainer that shares its processors is done, and no
    # update cuts anything
    given += ["actor_rollout_ref.rollout.max_num_seqs=1"]
    kill_after_a_checkpoint(given, run, KILLED_AFTER)
    finish(given, run)
    rows, told = sequences(run), steps(run)
    # each step has the batches of two updates, and some batch has tokens of several versions
    batches = {(row["step"], row["update"]): set() for row in rows}
    for row in rows:
        batches[row["step"], row["update"]] |= {version for version in row["rollout_versions"] if version >= 0}
    assert sorted(batches) == [(step, update) for step in range(1, STEPS + 1) for update in (0, 1)]
    assert any(len(versions) > 1 for versions in batches.values())
    assert_recorded_versions_sampled(rows, run, STEPS)
    assert_no_task_is_lost_or_trained_on_twice(rows, STEPS)
    assert_metrics_tell_of_lags(rows, told)
    for row in told:
        assert_waits_add_up(row, is_synchronous=False)
    # servers sample while the trainer is at work
    assert any(row["run/trainer_idle"] + row["run/servers_idle"] < 1 for row in told)
    # a mean over the two updates, although its name contains "max"
    for row in told:
        assert row["trm/acceptance"] + row["trm/rejected_by_max"] == pytest.approx(1)
