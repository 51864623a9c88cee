"""A real pretrained model: fetched, converted, trained on as it is, and warm-started on environments with programs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end.replayed import checked_dump
from tests.end_to_end.training import finish, steps
from tests.envs.sandbox_support import needs_bubblewrap
from trm_agent import cli
from trm_agent.models.smollm2 import ensure_smollm2

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SMALL = (
    "experiment=math_smollm2",
    "data.train_batch_size=1",
    "actor_rollout_ref.actor.ppo_mini_batch_size=1",
    "actor_rollout_ref.rollout.n=4",
    "env.train.horizons=[1]",
    "env.val.horizons=[1]",
    "env.val.num_tasks=4",
    "data.max_response_length=160",
    "actor_rollout_ref.rollout.max_model_len=480",
    "trainer.total_training_steps=2",
    "trainer.val_before_train=false",
    "trainer.test_freq=2",
    "trainer.save_freq=-1",
)
LOSS = "actor_rollout_ref.actor.policy_loss"
REPLAYED = (
    "actor_rollout_ref.rollout.top_k=128",
    f"{LOSS}.trm.estimator=replayed",
    f"{LOSS}.dump.every=1",
    f"{LOSS}.dump.distributions=true",
)


def distributions(row: dict) -> list[np.ndarray]:
    """Log-probs of the trainer and of the rollout, of a dumped sequence's tokens."""
    return [
        np.frombuffer(row[name], np.float32).reshape(-1, row["vocab_size"])
        for name in ("full_log_probs", "rollout_full_log_probs")
    ]


def test_the_model_as_it_is_takes_two_steps_at_horizon_1_on_the_tokens_that_its_rollout_could_draw(
    tmp_path: Path,
) -> None:
    ensure_smollm2()
    run = tmp_path / "run"
    done = finish([sys.executable, "-m", "trm_agent.train", *SMALL, *REPLAYED, f"run.dir={run}"], run)
    assert "threads of the engine for a model of 134 million weights" in done.stdout
    rows = steps(run)
    assert [row["env/num_episodes"] for row in rows] == [4, 4]
    assert [row["env/infrastructure_failures"] for row in rows] == [0, 0]
    # trainer and engine are the same model in float32
    assert all(row["trm/token_kl_mean_k3"] < 1e-8 for row in rows)
    assert "horizon 1" in done.stdout
    assert all(row["trm/kept_set_cut"] <= 1e-3 for row in rows)
    # 128 and 32 for ties, of 49,152, with 8 bytes of an id and 4 of a log-prob
    assert "estimator replayed: the recorded distributions take 1,920 bytes a token" in done.stdout
    dump = checked_dump(run, fewest_tokens=100)
    assert sorted(set(dump.step)) == [1, 2]
    assert len(dump.step) == 8
    # the whole policy is another one: of its mass this is outside
    outside = [
        1 - np.exp(theta[kept > -np.inf].astype(np.float64)).sum()
        for row in dump.table.to_pylist()
        for theta, kept in zip(*distributions(row), strict=True)
    ]
    assert max(outside) > 1e-3


@needs_bubblewrap
@pytest.mark.parametrize("env", ["long_execution", "python_math", "code_tests"])
def test_it_is_warm_started_on_other_environments(env: str, tmp_path: Path) -> None:
    out = tmp_path / "start"
    words = [
        "--target-success",
        "0",
        "--max-steps",
        "1",
        "--horizon",
        "1",
        "--final-tasks",
        "2",
        "--batch-tokens",
        "600",
    ]
    assert cli.main(["warmstart", "--model", "smollm2", "--env", env, "--out", str(out), *words]) == 0
    facts = json.loads((out / "warmstart.json").read_text())
    assert (facts["num_steps"], facts["tasks"]) == (1, 2)
    assert 0 < facts["loss"] < 10
