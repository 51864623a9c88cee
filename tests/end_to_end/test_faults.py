"""The real stack, end to end: Ray actors, FSDP on gloo, a vLLM server, the run folder."""

import json
from pathlib import Path

import pytest

from tests.end_to_end.training import steps, train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
LOSS = "actor_rollout_ref.actor.policy_loss.trm"


def test_faulty_environments_stop_neither_a_run_nor_its_top_k_intervals(tmp_path: Path) -> None:
    """With three policies and an adaptive threshold, to show more in one run. No validation task can be played."""
    done = train(
        tmp_path / "run",
        "policy_loss=trm_decoupled",
        f"{LOSS}.estimator=topk",
        f"{LOSS}.undecided=accept",
        f"{LOSS}.target_acceptance=0.5",
        f"{LOSS}.adaptive_floor=1e-6",
        "env.module=tests.end_to_end.faulty_env",
        "env.id=faulty/ChainMath-v0",
        "nano.env_id=trm/ChainMath-v0",
        "nano.env_kwargs={}",
        "+env.kwargs.raise_rate=0.1",
        "+env.kwargs.hang_rate=0.02",
        "+env.kwargs.unplayable=[4,8]",
        "env.limits.tool_time_s=1",
        "env.limits.step_timeout_s=21",
        "run.max_infrastructure_share=1",
    )
    rows = steps(tmp_path / "run")
    assert len(rows) == 2
    failed = sum(row["env/infrastructure_failures"] for row in rows)
    played = sum(row["env/num_episodes"] for row in rows)
    assert failed + played >= 32  # 2 steps of 2 x 8 episodes; a batch that failed whole is replaced
    assert sum(row.get("env/infrastructure_failures/env_error", 0) for row in rows) > 0
    # what failed is in no count of the method either
    assert [row["trm/num_sequences"] for row in rows] == [row["env/num_episodes"] for row in rows]
    assert all(0 <= row["env/groups_without_baseline"] < 2 for row in rows)
    assert "could not be played" in done.stdout
    assert "validation after step 2: no figures" in done.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["success"] == {"before": {}, "after": {}}
    assert len(summary["lacks"]) == 2
    first, second = rows
    # two of the eight tasks were to be played greedily as well
    assert second["env/val_infrastructure_failures"] == 10
    # on policy in float32 nothing is proven outside, and what the top 20 leave open is accepted
    assert first["trm/acceptance"] == 1
    assert 0 < first["trm/token_kl_mean"] < 0.1
    assert first["trm/token_kl_mean_k3"] < 1e-9
    assert first["trm/max_token_kl"] == 0.05
    # what decides is the lower bound, which on policy may be below the floor
    assert second["trm/max_token_kl"] == pytest.approx(min(max(first["trm/target_threshold"], 1e-6), 0.5))
    assert first["actor/grad_norm"] > 0
