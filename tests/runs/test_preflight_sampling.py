"""What dynamic sampling, over-long episodes and the curriculum cannot work with is refused before Ray."""

import functools
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from trm_agent.runs.compose import compose_run
from trm_agent.runs.preflight_sampling import SAMPLING_RULES

FILTER, OVERLONG, CURRICULUM = "algorithm.filter_groups", "env.overlong", "env.train.curriculum"
SHORT = "trainer.v1.sampler.sampler_kwargs.short_batch"
ON = {f"{FILTER}.enable": True}
PENALTY = {f"{OVERLONG}.treatment": "penalty"}
ASYNC = {"trainer.v1.trainer_mode": "colocate_async"}
CHOOSING = {f"{CURRICULUM}.enable": True}


@functools.cache
def nano() -> DictConfig:
    return compose_run(["experiment=math_nano"])


def check(changes: dict[str, Any]) -> None:
    config = nano().copy()
    for field, value in changes.items():
        OmegaConf.update(config, field, value)
    for rule in SAMPLING_RULES:
        rule(config)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        ON,
        {**ON, f"{FILTER}.metric": "acc", f"{FILTER}.max_num_gen_batches": 10, SHORT: "train"},
        {**ON, "data.gen_batch_size": 1},
        {f"{OVERLONG}.treatment": "mask"},
        # of the preset's 288 tokens
        {**PENALTY, f"{OVERLONG}.buffer_tokens": 288, f"{OVERLONG}.penalty_factor": 0.5},
        CHOOSING,
        # of three horizons
        {**CHOOSING, f"{CURRICULUM}.floor_share": 1 / 3},
        {**ON, **CHOOSING},
        {**ON, **CHOOSING, **ASYNC, f"{OVERLONG}.treatment": "mask"},
        {**ON, **CHOOSING, "trainer.v1.trainer_mode": "separate_async", f"{OVERLONG}.treatment": "mask"},
    ],
)
def test_what_can_work_is_accepted(changes):
    check(changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"trainer.v1.sampler.sampler_kwargs.tasks_per_update": 3},
            "tasks_per_update: got 3, but it follows actor_rollout_ref.actor.ppo_mini_batch_size; allowed: 16; leave",
        ),
        (
            {"trainer.v1.sampler.sampler_kwargs.episodes_per_task": 3},
            "episodes_per_task: got 3, but it follows actor_rollout_ref.rollout.n; allowed: 8; leave it out, and set",
        ),
        ({f"{FILTER}.max_num_gen_batches": 3}, f"got 3, which is read with {FILTER}.enable=true alone; allowed: 0"),
        ({SHORT: "train"}, "short_batch: got 'train', which is read with a limit alone"),
        ({**ON, SHORT: "train"}, "short_batch: got 'train', which is read with a limit alone"),
        ({**ON, f"{FILTER}.metric": None}, "metric: got null; allowed: `reward`, `acc`"),
        ({**ON, "algorithm.adv_estimator": "gae"}, "but with algorithm.adv_estimator=gae a group of equal rewards"),
        (
            {**ON, "algorithm.use_kl_in_reward": True},
            "use_kl_in_reward: got true, but algorithm.filter_groups judges the rewards before the KL term",
        ),
        ({**ON, "data.gen_batch_size": 16}, "gen_batch_size: got 16, but with algorithm.filter_groups tasks are drawn"),
        ({f"{OVERLONG}.buffer_tokens": 5}, "got 5, which env.overlong.treatment=keep does not read; allowed: null"),
        ({f"{OVERLONG}.penalty_factor": 2.0}, "got 2.0, which env.overlong.treatment=keep does not read; allowed: 1.0"),
        (PENALTY, "buffer_tokens: got null; allowed: from 1 to data.max_response_length=288 .* set it, such as 57"),
        ({**PENALTY, f"{OVERLONG}.buffer_tokens": 289}, "buffer_tokens: got 289; allowed: from 1 to"),
        ({f"{CURRICULUM}.memory_groups": 3}, "got 3, which is read with env.train.curriculum.enable=true alone"),
        ({**CHOOSING, "env.train.horizons": [4, 4]}, r"horizons: got \[4, 4\], among which nothing can be chosen"),
        ({**CHOOSING, f"{CURRICULUM}.floor_share": 0.34}, "floor_share: got 0.34; allowed: at most 1 / 3"),
        ({**CHOOSING, f"{CURRICULUM}.low": 0.9}, "low: got 0.9; allowed: at most env.train.curriculum.high=0.8"),
    ],
)
def test_what_cannot_work_or_would_be_ignored_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        check(changes)
