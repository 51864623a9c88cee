"""A mask of the policy before a step's updates, and a coin that is yoked to another run, in the real command."""

import json
from pathlib import Path

import pytest

from tests.end_to_end.training import steps, train
from trm_agent.runs.folder import METRICS_FILE
from trm_agent.trust_region.paired_run import QUARTERS, of_update

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TRM = "actor_rollout_ref.actor.policy_loss.trm"
# two updates a step, of a rollout with a mismatch
OFF_POLICY = (
    "actor_rollout_ref.rollout.dtype=bfloat16",
    "actor_rollout_ref.actor.ppo_mini_batch_size=1",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8",
    "trainer.val_before_train=false",
    "trainer.test_freq=-1",
    "trainer.save_freq=-1",
)


def test_a_yoked_run_repeats_the_acceptance_of_each_update_of_one_masked_at_the_start_of_its_steps(
    tmp_path: Path,
) -> None:
    paired, yoked = tmp_path / "paired", tmp_path / "yoked"
    start = (f"{TRM}.mask_policy=start_of_step", "algorithm.rollout_correction.bypass_mode=false")
    train(paired, *OFF_POLICY, *start, f"{TRM}.max_token_kl=0.0002")
    assert (paired / "log.txt").read_text(errors="replace").count("a forward pass before the first update") == 1
    rows = steps(paired)
    assert min(row["trm/acceptance"] for row in rows) < 1
    for row in rows:
        assert row["timing_s/old_log_prob"] > 0
        for name in QUARTERS:
            assert row[name] == pytest.approx(sum(row[of_update(name, number)] for number in (1, 2)) / 2)
        assert of_update(QUARTERS[0], 3) not in row
    # nothing in the one update, everything in the other, so that a coin can fall in one way alone
    updates = [{1: 0.0, 2: 1.0}, {1: 1.0, 2: 0.0}]
    (changed := tmp_path / "changed").mkdir()
    told = [
        row | {of_update(name, number): acceptance for name in QUARTERS for number, acceptance in of_step.items()}
        for row, of_step in zip(rows, updates, strict=True)
    ]
    (changed / METRICS_FILE).write_text("".join(f"{json.dumps(row)}\n" for row in told))
    train(yoked, *OFF_POLICY, "policy_loss=trm_yoked", f"{TRM}.yoked_run={changed}")
    for row, of_step in zip(steps(yoked), updates, strict=True):
        assert (row["trm/acceptance"], row["trm/rejected_by_yoked"]) == (0.5, 0.5)
        for name in QUARTERS:
            assert {number: row[of_update(name, number)] for number in (1, 2)} == of_step
