"""Divergences from the rollout engine's own distributions, end to end."""

from pathlib import Path

import pytest

from tests.end_to_end.training import steps, train
from trm_agent import analysis
from trm_agent.dump import read_dump

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
LOSS = "actor_rollout_ref.actor.policy_loss"


def test_the_exact_divergence_is_that_of_both_engines_distributions(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(
        run,
        "actor_rollout_ref.rollout.dtype=bfloat16",
        f"{LOSS}.trm.estimator=exact",
        f"{LOSS}.dump.every=1",
        f"{LOSS}.dump.distributions=true",
    )
    first, second = steps(run)
    assert 1e-7 < first["trm/token_kl_mean"] < 1e-2
    assert first["trm/token_kl_mean"] <= first["trm/token_kl_max"]
    assert first["trm/undecided"] == 0
    dump = read_dump(run / "rollouts")
    assert sorted(set(dump.step)) == [1, 2]
    assert len(dump.step) == first["trm/num_sequences"] + second["trm/num_sequences"] == 32
    again = analysis.recompute(dump)
    assert again is not None
    assert again["tokens"] == dump.response_mask.sum()
    # both sides are float32 sums over 563 tokens
    assert again["kl_difference"] < 1e-6
    assert again["tv_difference"] < 1e-6
    assert again["outside_topk_interval"] == 0
    logged = dump.divergences["kl_upper"][dump.step == 1][dump.response_mask[dump.step == 1]]
    assert logged.mean() == pytest.approx(first["trm/token_kl_mean"], rel=1e-4)


def test_top_k_intervals_with_three_policies_and_an_adaptive_threshold(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(
        run,
        "policy_loss=trm_decoupled",
        f"{LOSS}.trm.estimator=topk",
        f"{LOSS}.trm.undecided=accept",
        f"{LOSS}.trm.target_acceptance=0.5",
        f"{LOSS}.trm.adaptive_floor=1e-6",
        "actor_rollout_ref.model.use_remove_padding=false",
    )
    first, second = steps(run)
    # on policy in float32 nothing is proven outside, and what the top 20 leave open is accepted
    assert first["trm/acceptance"] == 1
    assert 0 < first["trm/token_kl_mean"] < 0.1
    assert first["trm/token_kl_mean_k3"] < 1e-9
    assert first["trm/max_token_kl"] == 0.05
    assert second["trm/max_token_kl"] == pytest.approx(first["trm/target_threshold"])
    assert first["actor/grad_norm"] > 0
