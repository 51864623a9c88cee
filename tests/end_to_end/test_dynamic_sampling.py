"""Groups without signal, in a real run: none reaches an update, and a third of broken tasks stalls nothing."""

from collections import defaultdict
from pathlib import Path

import pyarrow.parquet
import pytest

from tests.end_to_end.training import steps, train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_a_filtered_run_trains_on_groups_that_differ_whatever_a_third_of_the_tasks_does(tmp_path: Path) -> None:
    """A third of the tasks cannot be played. With a curriculum, to show it in the same run."""
    run = tmp_path / "run"
    done = train(
        run,
        "algorithm.filter_groups.enable=true",
        "algorithm.filter_groups.max_num_gen_batches=16",
        "env.module=tests.end_to_end.faulty_env",
        "env.id=faulty/ChainMath-v0",
        "nano.env_id=trm/ChainMath-v0",
        "nano.env_kwargs={}",
        # a third of the tasks
        "+env.kwargs.unplayable=[3]",
        "env.train.horizons=[1,2,3]",
        "env.train.curriculum.enable=true",
        "run.max_infrastructure_share=1",
        "actor_rollout_ref.actor.policy_loss.dump.every=1",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
    )
    rows = steps(run)
    assert len(rows) == 2
    for row in rows:
        assert row["env/groups/with_signal"] == 2
        assert row["env/groups/drawn"] == 2 + row["env/groups/without_signal"] == 2 + row["env/groups/refilled"]
        assert row["env/equal_group_frac"] == row["env/groups_without_baseline"] == 0
        assert row["env/groups/without_signal/infrastructure"] * 8 == row["env/infrastructure_failures"]
        assert f"groups 2 of {2 + row['env/groups/without_signal']:.0f}" in done.stdout
    # the fault is the horizon's alone, and no episode of it is ever measured
    assert {name for row in rows for name in row if name.startswith("env/curriculum/success/")} <= {
        f"env/curriculum/success/h{horizon}" for horizon in (1, 2)
    }
    rewards: dict[tuple[int, str], set[float]] = defaultdict(set)
    for file in sorted((run / "rollouts").glob("*.parquet")):
        for item in pyarrow.parquet.read_table(file, columns=["step", "task", "reward"]).to_pylist():
            rewards[item["step"], item["task"]].add(item["reward"])
    assert len(rewards) == 4
    assert all(len(values) > 1 for values in rewards.values())
