"""Tests that the settings of each run of benchmarks.staleness are allowed, and are those that its name says."""

import pytest
from omegaconf import OmegaConf

from benchmarks.staleness_job import (
    CAUSE,
    COLOCATE,
    KILLS,
    LEARNING,
    PHASES,
    SIDES,
    SPANS,
    UNMASKED,
    WALL,
    WORKLOADS,
    Job,
    overrides,
)
from trm_agent.runs.compose import compose_run
from trm_agent.runs.preflight import check

_ACTOR = "actor_rollout_ref.actor"
_CRITERION = f"{_ACTOR}.policy_loss.trm.criterion"
# what a side of `cause` changes, mask, mode and updates a step left out
CHANGED = {
    "half rate": {f"{_ACTOR}.optim.lr": 2.5e-4},
    "quarter rate": {f"{_ACTOR}.optim.lr": 1.25e-4},
    f"{COLOCATE}, directional": {_CRITERION: "directional"},
    f"{COLOCATE}, half rate": {f"{_ACTOR}.optim.lr": 2.5e-4},
    "half rate, directional": {f"{_ACTOR}.optim.lr": 2.5e-4, _CRITERION: "directional"},
    "no momentum": {f"{_ACTOR}.optim.betas": [0, 0.999]},
    "coin at 0.25": {_CRITERION: "random", f"{_ACTOR}.policy_loss.trm.random_acceptance": 0.25},
    **{
        name: {_CRITERION: name}
        for name in (
            "permuted",
            "inverse",
            "directional",
            "inward",
            "negative_only",
            "stop",
            "stop_directional",
            "token",
        )
    },
}
UNCHANGED = {f"{_ACTOR}.optim.lr": 5e-4, f"{_ACTOR}.optim.betas": [0.9, 0.999], _CRITERION: "max"}

# all kills of a mode have one setting
RUNS = [(part, side) for part, sides in SIDES.items() for side in sides if not side.endswith(PHASES[1:])]


@pytest.mark.parametrize(("part", "side"), RUNS)
def test_the_settings_of_each_run_are_allowed(part, side, tmp_path):
    config = compose_run(overrides(Job(part, side, 3, 4, 500, "abc"), tmp_path))
    check(config)
    work, actor = WORKLOADS[part], config.actor_rollout_ref.actor
    assert config.trainer.v1.trainer_mode == SIDES[part][side].mode
    assert (config.data.train_batch_size, config.actor_rollout_ref.rollout.n) == (work.tasks, work.group)
    assert (config.env.train.seed, config.trainer.total_training_steps) == (3, 4)
    thresholds = {"threshold 0.2": 0.2, **dict.fromkeys((name for name in SIDES[part] if UNMASKED in name), 1e9)}
    assert actor.policy_loss.trm.max_token_kl == thresholds.get(side, 0.05)
    if part in (LEARNING, CAUSE):
        # `learning` has the rate of the presets
        of_part = {f"{_ACTOR}.optim.lr": 2.5e-4} if part == LEARNING else {}
        expected = UNCHANGED | of_part | CHANGED.get(side.removesuffix(f", {UNMASKED}"), {})
        assert {field: OmegaConf.select(config, field) for field in expected} == expected
    assert config.env.kwargs.get("tool_s") == (0.5 if work.has_slow_tool else None)
    # so that sides of a part differ in no more than their mode
    updates = work.tasks / actor.ppo_mini_batch_size
    assert updates == (1 if "one update" in side else {LEARNING: 2, SPANS: 2, CAUSE: 2, WALL: 1, KILLS: 2}[part])
