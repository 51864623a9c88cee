"""No deadline can be reached within the policy's budgets: the defaults hold, and what does not is refused."""

import copy
import math

import gymnasium
import pytest
import yaml
from omegaconf import OmegaConf

from trm_agent.episode import Limits
from trm_agent.runs import preflight
from trm_agent.runs.compose import choices, compose_run
from trm_agent.runs.deadlines import check_deadlines, least_deadlines, step_budget_s, with_room
from trm_agent.runs.schema import check_groups
from trm_envs.tasks.chain_math import ChainMath

BUDGETS = Limits(max_turns=10, max_response_tokens=1000, max_turn_tokens=200, tool_time_s=7, episode_tool_time_s=30)
# 7 + 15; 200 / 2 + 60; 30 + 1000 / 2 + 10 * 1 + 60
LEAST = {"step_timeout_s": 22.0, "generate_timeout_s": 160.0, "episode_timeout_s": 600.0}


def test_each_deadline_is_the_sum_of_its_budgets_and_a_margin():
    assert least_deadlines(BUDGETS, 7, 2) == LEAST


def test_a_turn_takes_a_token_and_a_turn_has_no_more_than_the_response():
    short = Limits(max_turns=10, max_response_tokens=4, max_turn_tokens=200, episode_tool_time_s=30)
    # 4 / 2 + 60; 30 + 4 / 2 + 4 * 1 + 60
    least = least_deadlines(short, 7, 2)
    assert (least["generate_timeout_s"], least["episode_timeout_s"]) == (62, 96)


@pytest.mark.parametrize("name", LEAST)
def test_a_deadline_is_refused_just_below_its_sum_and_taken_at_it(name):
    check_deadlines(with_deadlines(LEAST), 7, 2, prefix="env.limits.")
    below = with_deadlines({**LEAST, name: LEAST[name] - 0.5})
    with pytest.raises(ValueError, match=rf"env\.limits\.{name}: got .*at least {math.ceil(LEAST[name])} s.*raise it"):
        check_deadlines(below, 7, 2, prefix="env.limits.")


def with_deadlines(deadlines):
    return Limits(**{**vars(BUDGETS), **deadlines})


def test_room_is_made_but_for_what_is_fixed():
    tight = with_deadlines(dict.fromkeys(LEAST, 1.0))
    check_deadlines(with_room(tight, 2), 7, 2, prefix="")
    assert with_room(tight, 2, {"step_timeout_s"}).step_timeout_s == 1.0
    roomy = Limits()
    assert with_room(roomy, 5) == roomy


def test_a_steps_budget_is_what_the_environment_says():
    class Says(ChainMath):
        def step_budget_s(self):
            return 2 * self.tool_time.turn_limit_s

    gymnasium.register("deadlines/Says-v0", entry_point=Says, disable_env_checker=True)
    assert step_budget_s(gymnasium.make("deadlines/Says-v0"), BUDGETS) == 14
    assert step_budget_s(gymnasium.make("trm/ChainMath-v0"), BUDGETS) > 7
    assert step_budget_s(object(), BUDGETS) == 7


@pytest.mark.slow
@pytest.mark.parametrize("env", [choice for choice in choices("env") if choice != "custom"])
def test_the_defaults_of_our_environments_pass(env):
    if env == "reasoning_gym":
        pytest.importorskip("reasoning_gym")
    game = ["env.kwargs.env_id=FrozenLake-v1", "env.kwargs.one_task=true"] if env == "gym" else []
    preflight.check(compose_run(["experiment=math_nano", f"env={env}", *game]))


@pytest.mark.slow
def test_the_defaults_of_an_environment_of_ones_own_pass():
    preflight.check(compose_run(["experiment=math_nano", "env=custom", "env.id=trm/ChainMath-v0"]))


def test_our_defaults_are_one():
    limits = compose_run(["experiment=math_nano", "env=custom"]).env.limits
    times = {name: value for name, value in limits.items() if name.endswith("_s")}
    assert times == {name: getattr(Limits(), name) for name in times}
    assert len(times) == 5


NANO = compose_run(["experiment=math_nano"])


def check(config):
    """All that is refused before Ray: at composition, and then."""
    check_groups(config)
    preflight.check(config)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "env.limits.step_timeout_s=79",
            ["env.limits.step_timeout_s: got 79", "at least 80 s", "env.limits.tool_time_s"],
        ),
        ("env.limits.tool_time_s=101", ["env.limits.step_timeout_s: got 120", "at least 121 s", "tool_time_s=101"]),
        (
            "env.limits.generate_timeout_s=91",
            ["generate_timeout_s: got 91", "at least 92 s", "hardware.least_tokens_per_s"],
        ),
        ("env.limits.episode_timeout_s=659", ["episode_timeout_s: got 659", "at least 660 s", "max_turns=12"]),
        # a deadline is raised for tokens, not for programs: 7,200 s of them, 288 of tokens, 12 turns and 60
        ("env.limits.episode_tool_time_s=7200", ["episode_timeout_s: got 7200", "at least 7560 s"]),
        (
            "hardware.least_tokens_per_s=0.05",
            ["generate_timeout_s: got 600", "at least 700 s", "0.05 tokens per second"],
        ),
        ("hardware.least_tokens_per_s=0", ["hardware.least_tokens_per_s: got 0", "null or a finite number above 0"]),
        ("env.limits.tool_time_s=-1", ["env.limits.tool_time_s: got -1", "above 0"]),
        ("env.limits.tool_tim_s=1", ["limits.tool_tim_s", "'tool_time_s'"]),
        ("run.max_infrastructure_share=2", ["run.max_infrastructure_share: got 2", "from 0 to 1", "such as 0.2"]),
        ("run.warn_infrastructure_share=much", ["run.warn_infrastructure_share: got 'much'", "from 0 to 1"]),
        ("run.max_infrastructure_steps=0", ["run.max_infrastructure_steps: got 0", "1 or more"]),
    ],
)
def test_deadlines_that_do_not_hold_the_budgets_are_refused(override, words):
    config = copy.deepcopy(NANO)
    field, _, value = override.partition("=")
    OmegaConf.update(config, field, yaml.safe_load(value), force_add=True)
    with pytest.raises(ValueError, match=r"limit|share|least|steps") as refusal:
        check(config)
    assert [word for word in words if word not in str(refusal.value)] == [], str(refusal.value)
