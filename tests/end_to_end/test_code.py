"""Programs of the model, run in the sandbox and scored by hidden tests; trained on with a loss of verl's own."""

from pathlib import Path

import psutil
import pytest

from tests.end_to_end.training import assert_verls_loss_ran, steps, train
from tests.envs.sandbox_support import needs_bubblewrap

pytestmark = [needs_bubblewrap, pytest.mark.slow, pytest.mark.timeout(600)]


def zygotes() -> set[int]:
    """The warm interpreters of sandboxes that are running now."""
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        if any("zygote.serve" in part for part in process.info["cmdline"] or ()):
            found.add(process.pid)
    return found


def test_code_is_run_and_scored_in_a_training_with_ppo_clip(tmp_path: Path) -> None:
    before = zygotes()
    train(
        tmp_path / "run",
        "env=code_tests",
        "policy_loss=ppo_clip",
        "env.train.horizons=[1]",
        "env.val.horizons=[1]",
        "nano.horizon=1",
        "+nano.warm_start_horizons=[1]",
        "nano.target_success=0.3",
        "trainer.total_training_steps=1",
        "trainer.test_freq=1",
    )
    (row,) = steps(tmp_path / "run")
    assert (row["env/num_episodes"], row["env/infrastructure_failures"]) == (16, 0)
    # a third of the episodes pass all tests, so that hardly ever all or none of sixteen do
    assert 0 < row["env/success"] < 1
    assert row["env/success"] <= row["env/task/stages_passed_frac"] <= 1
    assert zygotes() <= before
    assert_verls_loss_ran(row)
