"""Divergences from the rollout engine's own distributions, end to end."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.core.constant_reward import standard_errors_of_the_gain
from tests.end_to_end.replayed import checked_dump
from tests.end_to_end.training import assert_complete, assert_waits_add_up, steps, train
from trm_agent.trust_region.analysis import sampler_check
from trm_agent.trust_region.dump import read_dump
from trm_agent.trust_region.recomputation import recompute

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
    for row in (first, second):
        assert_waits_add_up(row)
    assert "idle: trainer" in done.stdout
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
    again = recompute(dump)
    assert again is not None
    assert again["tokens"] == dump.response_mask.sum()
    # both sides are float32 sums over 563 tokens
    assert again["kl_difference"] < 1e-6
    assert again["tv_difference"] < 1e-6
    assert again["outside_topk_interval"] == 0
    logged = dump.divergences["kl_upper"][dump.step == 1][dump.response_mask[dump.step == 1]]
    assert logged.mean() == pytest.approx(first["trm/token_kl_mean"], rel=1e-4)


def test_a_replayed_rollout_is_compared_on_the_tokens_that_it_could_draw(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = train(
        run,
        "actor_rollout_ref.rollout.dtype=bfloat16",
        "actor_rollout_ref.rollout.top_k=64",
        # two updates, the second of which is off-policy
        "actor_rollout_ref.actor.ppo_mini_batch_size=1",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8",
        f"{LOSS}.trm.estimator=replayed",
        f"{LOSS}.dump.every=1",
        f"{LOSS}.dump.distributions=true",
    )
    first, second = steps(run)
    assert "estimator replayed: the recorded distributions take 1,152 bytes a token" in done.stdout
    for row in (first, second):
        assert 1e-7 < row["trm/token_kl_mean"] <= row["trm/token_kl_max"]
        assert (row["trm/undecided"], row["trm/kept_set_cut"]) == (0, 0)
    dump = checked_dump(run, fewest_tokens=300)
    check = sampler_check(dump)
    assert check is not None
    assert check.tokens == dump.response_mask.sum()
    assert not check.is_false
    # the gain of a constant reward is nothing but noise, where the whole policy in the ratio would lose mass each token
    assert standard_errors_of_the_gain(dump.log_probs, dump.rollout_log_probs, dump.response_mask) < 4


def test_with_a_replayed_rollout_all_policies_of_a_step_are_on_the_tokens_that_it_could_draw(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(
        run,
        "policy_loss=trm_decoupled",
        "actor_rollout_ref.rollout.dtype=bfloat16",
        "actor_rollout_ref.rollout.top_k=64",
        "actor_rollout_ref.actor.loss_agg_mode=token-mean",
        "actor_rollout_ref.actor.entropy_coeff=0.01",
        "actor_rollout_ref.actor.use_kl_loss=true",
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=16",
        f"{LOSS}.trm.estimator=replayed",
        f"{LOSS}.dump.every=1",
        f"{LOSS}.dump.distributions=true",
    )
    first, second = steps(run)
    table = [row for row in read_dump(run / "rollouts").table.to_pylist() if row["step"] == 1]
    entropies = []
    for row in table:
        theta, roll = (
            np.frombuffer(row[name], np.float32).reshape(-1, row["vocab_size"]).astype(np.float64)
            for name in ("full_log_probs", "rollout_full_log_probs")
        )
        for values, kept in zip(theta, roll > -np.inf, strict=True):
            cut = values[kept] - np.log(np.exp(values[kept]).sum())
            entropies.append(-(np.exp(cut) * cut).sum())
    # one update a step: the policy in training is still that of the start, and in the first step the reference
    assert len(entropies) == sum(sum(row["response_mask"]) for row in table) > 150
    assert first["actor/entropy"] == pytest.approx(np.mean(entropies), rel=1e-4)
    assert first["actor/entropy_loss"] == pytest.approx(np.mean(entropies), rel=1e-4)
    assert abs(first["actor/kl_loss"]) < 1e-9 < second["actor/kl_loss"]
