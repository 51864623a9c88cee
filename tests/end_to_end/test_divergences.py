"""Divergences from the rollout engine's own distributions, end to end."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.end_to_end.training import assert_complete, steps, train
from trm_agent.trust_region import analysis
from trm_agent.trust_region.dump import read_dump

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
LOSS = "actor_rollout_ref.actor.policy_loss"


def test_the_exact_divergence_is_that_of_both_engines_distributions(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = train(
        run,
        # the way of a GPU, beside which the other runs have their agent loops in the server's process
        "hardware.agent_loops=workers",
        "actor_rollout_ref.rollout.dtype=bfloat16",
        f"{LOSS}.trm.estimator=exact",
        f"{LOSS}.dump.every=1",
        f"{LOSS}.dump.distributions=true",
    )
    first, second = steps(run)
    assert_complete(run, done.stdout, num_steps=2)
    assert "disk: " in done.stdout
    assert "\x1b[" not in (run / "log.txt").read_text(errors="replace")
    assert 1e-7 < first["trm/token_kl_mean"] < 1e-2
    assert first["trm/token_kl_mean"] <= first["trm/token_kl_max"]
    assert first["trm/undecided"] == 0
    dump = read_dump(run / "rollouts")
    assert sorted(set(dump.step)) == [1, 2]
    assert len(dump.step) == first["trm/num_sequences"] + second["trm/num_sequences"] == 32
    groups = Counter(zip(dump.step, dump.table["task"].to_pylist(), strict=True))
    assert len(set(groups.values())) == 1, groups
    for row in dump.table.to_pylist():
        turns = json.loads(row["episode"])["turns"]
        spoken = [position for turn in turns for position in range(turn["start"], turn["stop"])]
        assert spoken == [position for position, sampled in enumerate(row["response_mask"]) if sampled]
    again = analysis.recompute(dump)
    assert again is not None
    assert again["tokens"] == dump.response_mask.sum()
    # both sides are float32 sums over 563 tokens
    assert again["kl_difference"] < 1e-6
    assert again["tv_difference"] < 1e-6
    assert again["outside_topk_interval"] == 0
    logged = dump.divergences["kl_upper"][dump.step == 1][dump.response_mask[dump.step == 1]]
    assert logged.mean() == pytest.approx(first["trm/token_kl_mean"], rel=1e-4)
