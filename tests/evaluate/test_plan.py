"""The episodes of a plan, their order, and the settings that make two evaluations one."""

from collections import Counter
from dataclasses import replace

import pytest
import yaml

from tests.evaluate.evaluation_fakes import LIMITS, environment, fake_checkpoint, plan
from trm_agent.evaluate.engines.sampling import Sampling
from trm_agent.evaluate.plan import identity
from trm_agent.runs.stored_config import config_differences
from trm_agent.tasks import task_at


def differences(left, right):
    return config_differences(identity(left.config()), identity(right.config()))


def test_tasks_are_those_of_a_validation_with_the_same_section():
    ours = environment(horizons=(4, 8), seed=20251223)
    section = {"id": ours.id, "val": {"horizons": [4, 8], "split": "held_out", "seed": 20251223}}
    assert [ours.task(index) for index in range(7)] == [task_at(section, "val", index) for index in range(7)]


def test_a_row_of_a_file_is_a_task():
    ours = environment(rows_hash="abc", split="all", horizons=(1,))
    assert [ours.task(index).options["row"] for index in range(3)] == [0, 1, 2]


def test_every_episode_is_played_once_and_one_sample_of_each_task_before_the_second():
    order = plan().episodes()
    assert Counter(order) == Counter({("chain", task, sample): 1 for task in range(6) for sample in range(2)})
    for horizon in range(3):
        samples = [key.sample for key in order if key.task % 3 == horizon]
        assert samples == [0, 0, 1, 1]


def test_any_first_part_mixes_the_horizons_and_the_last_part_is_short():
    big = plan(environments=(environment(horizons=(4, 16, 48), num_tasks=300),), samples=1)
    horizons = [big.environments[0].horizon(key.task) for key in big.episodes()]
    for part in (30, 60, 120, 200):
        counts = Counter(horizons[:part])
        assert min(counts[horizon] for horizon in (4, 16, 48)) > 0.25 * part
    # after 0.75 of the order come 100 (1 - 0.75 / 0.979) = 23 of horizon 4 and 100 (1 - 0.75 / 0.917) = 18 of 16
    assert 48 not in horizons[-41:]
    assert Counter(horizons[-41:]).most_common(1)[0][0] == 4


def test_the_order_does_not_depend_on_the_checkpoints_and_saved_episodes_are_spread():
    assert plan(("a",)).episodes() == plan(("b", "c")).episodes()
    assert sorted(key.task for key in plan().first_episodes(4)) == [0, 1, 2, 3]


def test_sampling_seeds_differ_between_episodes_and_stay_when_more_is_asked_for():
    small, large = plan(), plan(environments=(environment(num_tasks=50),), samples=9)
    seeds = {key: large.sampling_seed(key) for key in large.episodes()}
    assert len(set(seeds.values())) == 450
    assert all(small.sampling_seed(key) == seeds[key] for key in small.episodes())
    other = plan(sampling=Sampling(seed=1))
    assert other.sampling_seed(small.episodes()[0]) != seeds[small.episodes()[0]]
    assert all(0 <= seed < 2**31 for seed in seeds.values())


def test_limits_hold_up_to_their_horizon_and_grow_in_proportion_beyond_it():
    ours = environment(horizons=(2, 8, 48), limits_horizon=8)
    short, same, long = (ours.limits_at(horizon) for horizon in (2, 8, 48))
    assert short == same
    # 48 / 8 = 6
    assert (long.max_turns, long.max_tool_calls) == (24, 24)
    assert (long.max_prompt_tokens, long.max_response_tokens, long.episode_timeout_s) == (12000, 12000, 6000)
    assert (long.max_turn_tokens, long.max_observation_tokens, long.step_timeout_s) == (64, 64, 100)
    assert ours.max_model_len == 24000


def test_deadlines_have_room_for_the_budgets_unless_the_user_set_them():
    short = {"step_timeout_s": 1, "generate_timeout_s": 1, "episode_timeout_s": 1}
    budgets = {"tool_time_s": 10, "episode_tool_time_s": 20}
    ours = environment(limits={**LIMITS, **short, **budgets})
    limits = ours.limits_at(1)
    # 10 s and twice the margin of 15; 64 tokens at 5 a second and 60; 20, 2000 at 5 a second, 1 for each of 4 turns, 60
    assert (limits.step_timeout_s, limits.generate_timeout_s, limits.episode_timeout_s) == (40, 72.8, 484)
    assert replace(ours, fixed_limits=short).limits_at(1).step_timeout_s == 1


def test_the_users_limits_hold_at_every_horizon_and_the_context_bounds_the_response():
    ours = environment(horizons=(48,), limits_horizon=8, fixed_limits={"max_turns": 7}, context=13000)
    limits = ours.limits_at(48)
    assert (limits.max_turns, limits.max_response_tokens) == (7, 1000)
    assert ours.max_model_len == 13000
    with pytest.raises(ValueError, match=r"max_prompt_tokens=12000 at horizon 48 fills the model's context of 12000"):
        replace(ours, context=12000)


def test_counts_and_time_limits_and_places_are_no_part_of_an_evaluations_identity():
    one = plan()
    slower = {**LIMITS, "generate_timeout_s": 900}
    moved = replace(fake_checkpoint("one"), source="elsewhere")
    others = (
        plan(samples=7),
        plan(environments=(environment(num_tasks=60),)),
        plan(environments=(environment(limits=slower),)),
        replace(one, checkpoints=(moved, one.checkpoints[1])),
    )
    assert [differences(one, other) for other in others] == [[], [], [], []]


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (plan(sampling=Sampling(temperature=0.5)), "sampling.temperature: 1.0 -> 0.5"),
        (plan(sampling=Sampling(seed=3)), "sampling.seed: 0 -> 3"),
        (plan(environments=(environment(seed=6),)), "environments.chain.seed: 5 -> 6"),
        (plan(environments=(environment(horizons=(1, 2)),)), "environments.chain.horizons: [1, 2, 3] -> [1, 2]"),
        (plan(environments=(environment(fixed_limits={"max_turns": 9}),)), "environments.chain.limits.1.max_turns: 4"),
        (plan(fingerprints=("hash of one", "new weights")), "checkpoints.two.fingerprint: hash of two -> new weights"),
        (plan(environments=(environment(kwargs={"reveal": "stepwise"}),)), "kwargs.reveal: upfront -> stepwise"),
    ],
)
def test_what_decides_results_is_named_where_it_differs(other, named):
    assert any(named in difference for difference in differences(plan(), other))


def test_a_configuration_survives_its_file():
    config = plan().config()
    assert yaml.safe_load(yaml.safe_dump(config)) == config


def test_what_cannot_be_is_refused():
    for make, message in (
        (lambda: environment(horizons=()), "horizons of chain"),
        (lambda: environment(horizons=(4, 0)), r"got \[4, 0\]"),
        (lambda: environment(num_tasks=0), "tasks of chain: got 0"),
        (lambda: environment(fixed_limits={"max_turn": 3}), "did you mean 'max_turns'"),
        (lambda: plan(samples=0), "--samples: got 0"),
        (lambda: plan(("a", "b", "a")), "a is there twice; name each by LABEL=SOURCE"),
        (lambda: plan(environments=(environment(), environment())), "chain is there twice"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
