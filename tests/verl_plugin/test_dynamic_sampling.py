"""Groups without signal are replaced: on the run's replay buffer over a queue whose episodes are scripted."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("verl")

from verl.trainer.config import AlgoConfig
from verl.trainer.ppo import core_algos

from trm_agent.runs.sampling_settings import CurriculumConfig
from trm_agent.verl_plugin.driver.curriculum import Curriculum
from trm_agent.verl_plugin.driver.dynamic_sampling import Filter, GroupWatch, TooFewGroups
from trm_agent.verl_plugin.driver.group_signal import Group, compared

from .scripted_queue import FAILED, MASKED, ScriptedQueue, buffer, scripted, tasks

MIXED, RIGHT, WRONG = (1.0, 0.0), (1.0, 1.0), (0.0, 0.0)


def filtering(metric: str = "reward", max_batches: int = 0, short_batch: str = "stop") -> Filter:
    return Filter(metric, max_batches, short_batch, max_failed_batches=3)


def sampled(queue, monkeypatch, filter: Filter | None, size: int = 4, **settings):
    """A step's batch, and the buffer's watch."""
    made = buffer(queue, monkeypatch, **settings)
    made.watch = GroupWatch(filter)
    queue.draw(size)
    batch, _ = made.sample(global_steps=1, partition_id="train", batch_size=size)
    return batch, made.watch


@pytest.mark.parametrize(
    ("values", "successes", "num_masked", "reason"),
    [
        ([1.0, 0.0], [True, False], 0, None),
        ([1.0, 1.0], [True, True], 0, "all_right"),
        ([0.0, 0.0], [False, False], 0, "all_wrong"),
        # partial rewards: equal ones teach nothing, however they came about
        ([0.5, 0.5], [True, False], 0, "equal"),
        ([0.5, 0.5 + 1e-9], [False, False], 0, None),
        ([1.0], [True], 3, "alone"),
        ([], [], 0, "infrastructure"),
        ([], [], 2, "overlong"),
    ],
)
def test_a_group_says_why_it_teaches_nothing(values, successes, num_masked, reason):
    assert Group(2, values, successes, num_masked=num_masked).lacks_signal() == reason


@pytest.mark.parametrize("best_alone", [False, True])
@pytest.mark.parametrize("by_success", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_a_group_with_signal_has_an_advantage(seed, by_success, best_alone):
    draws = np.random.default_rng(seed)
    kept = 0
    for _ in range(40):
        size = int(draws.integers(2, 6))
        # with a penalty for length a success may be worth what a failure is
        rewards, successes = draws.choice([0.0, 0.5, 1.0], size).tolist(), (draws.random(size) < 0.5).tolist()
        group = Group(2, compared(rewards, successes, by_success, best_alone), successes)
        name = "grpo_passk" if best_alone else "grpo"
        advantages = advantages_of(name, rewards)
        has_one = any(value != 0 for value in advantages)
        if not by_success:
            assert (group.lacks_signal() is None) == has_one
        elif group.lacks_signal() is None:
            assert has_one
            assert len(set(successes)) == 2
            kept += 1
    assert kept or not by_success


def advantages_of(estimator: str, rewards: list[float]) -> list[float]:
    """verl's advantages of the episodes of a group, by the estimator's name."""
    compute = core_algos.get_adv_estimator_fn(estimator)
    size = len(rewards)
    scores, mask, index = torch.tensor(rewards)[:, None], torch.ones(size, 1), np.array(["t"] * size)
    config = AlgoConfig(adv_estimator=estimator)
    found, _ = compute(token_level_rewards=scores, response_mask=mask, index=index, config=config)
    return found[:, 0].tolist()


def test_with_pass_k_a_tie_for_the_best_is_no_signal(monkeypatch):
    table = {0: (1.0, 1.0, 0.0), 1: (1.0, 0.0, 0.0), 2: (0.5, 0.0, 0.0), 3: (0.5, 0.5, 0.0)}
    queue = ScriptedQueue(scripted(table, (1.0, 0.0, 0.0)))
    batch, watch = sampled(queue, monkeypatch, replace(filtering(), best_alone=True))
    assert tasks(batch) == ["t1", "t2", "t4", "t5"]
    assert watch.metrics()["env/groups/without_signal/equal"] == 1


def test_success_alone_is_no_signal_where_rewards_are_equal():
    group = Group(2, compared([0.0, 0.0], [True, False], by_success=True, best_alone=False), [True, False])
    assert group.lacks_signal() == "equal"


@pytest.mark.parametrize("seed", range(8))
def test_the_first_tasks_with_signal_are_trained_on_whatever_the_order_in_which_they_end(seed, monkeypatch):
    draws = np.random.default_rng(seed)
    kinds = [MIXED, RIGHT, WRONG, (FAILED, FAILED), (FAILED, 1.0), (MASKED, MASKED)]
    outcomes = [kinds[kind] for kind in draws.integers(len(kinds), size=200)]
    delays = draws.integers(1, 9, size=200)
    queue = ScriptedQueue(lambda task: outcomes[task], lambda task: int(delays[task]))
    batch, watch = sampled(queue, monkeypatch, filtering())
    first = [f"t{task}" for task, outcome in enumerate(outcomes) if outcome == MIXED][:4]
    assert tasks(batch) == first
    # none is drawn in vain: the last one that was drawn is the last that was needed
    assert queue.num_drawn == watch.num_drawn == int(first[-1][1:]) + 1
    assert queue.most_in_flight == 4
    # nothing of a replaced group stays in the queue, and the batch waits there for the update
    assert set(queue.tags["train"]) == set(queue.rows) == set(batch.keys)


def test_a_long_group_is_waited_for(monkeypatch):
    queue = ScriptedQueue(scripted({1: WRONG}, MIXED), lambda task: 50 if task == 0 else 1)
    batch, _ = sampled(queue, monkeypatch, filtering())
    assert tasks(batch) == ["t0", "t2", "t3", "t4"]


def test_what_was_found_is_counted(monkeypatch):
    table = {0: RIGHT, 1: WRONG, 3: (FAILED, FAILED), 4: (FAILED, 1.0), 6: (0.5, 0.5), 7: (MASKED, MASKED)}
    _, watch = sampled(ScriptedQueue(scripted(table, MIXED)), monkeypatch, filtering())
    # tasks 2, 5, 8, 9 have signal
    assert watch.metrics() == {
        "env/groups/drawn": 10.0,
        "env/groups/refilled": 6.0,
        "env/groups/generation_batches": 2.5,
        "env/groups/with_signal": 4.0,
        "env/groups/without_signal": 6.0,
        "env/groups/without_signal/all_right": 1.0,
        "env/groups/without_signal/all_wrong": 2.0,
        "env/groups/without_signal/equal": 0.0,
        "env/groups/without_signal/alone": 1.0,
        "env/groups/without_signal/infrastructure": 1.0,
        "env/groups/without_signal/overlong": 1.0,
    }
    left_out = watch.left_out()
    # of the replaced groups 2 + 2 + 0 + 1 + 2 + 0 episodes of 10 tokens were played and not masked
    assert (len(left_out), sum(group.num_tokens for group in left_out)) == (6, 70)


def test_success_may_decide_in_place_of_the_reward(monkeypatch):
    table = {0: (0.5, 0.2), 1: (1.0, 1.0)}
    by_reward, _ = sampled(ScriptedQueue(scripted(table, MIXED)), monkeypatch, filtering())
    by_success, _ = sampled(ScriptedQueue(scripted(table, MIXED)), monkeypatch, filtering(metric="acc"))
    assert tasks(by_reward) == ["t0", "t2", "t3", "t4"]
    assert tasks(by_success) == ["t2", "t3", "t4", "t5"]


def test_a_run_stops_at_the_last_generation_batch_and_says_what_it_lacks(monkeypatch):
    queue = ScriptedQueue(lambda task: MIXED if task % 4 == 0 else WRONG)
    with pytest.raises(TooFewGroups) as stopped:
        sampled(queue, monkeypatch, filtering(max_batches=3))
    # of 3 batches of 4 tasks every fourth task has signal
    assert queue.num_drawn == 12
    told = "step 1: 3 of 4 groups have signal after 12 tasks, 3 generation batches; without: 9 all wrong; raise"
    assert str(stopped.value).startswith(f"{told} algorithm.filter_groups.max_num_gen_batches=3")


def test_the_last_generation_batch_may_fill_the_batch(monkeypatch):
    queue = ScriptedQueue(lambda task: MIXED if task % 4 == 3 else WRONG)
    batch, watch = sampled(queue, monkeypatch, filtering(max_batches=4))
    assert tasks(batch) == ["t3", "t7", "t11", "t15"]
    assert watch.metrics()["env/groups/generation_batches"] == 4


def test_a_run_may_go_on_with_fewer_groups_but_not_with_none(monkeypatch):
    short = filtering(max_batches=2, short_batch="train")
    batch, watch = sampled(ScriptedQueue(lambda task: MIXED if task % 4 == 0 else RIGHT), monkeypatch, short)
    assert tasks(batch) == ["t0", "t4"]
    assert watch.num_with_signal == 2
    with pytest.raises(TooFewGroups, match=r"0 of 4 groups have signal .* 8 all right"):
        sampled(ScriptedQueue(lambda _: RIGHT), monkeypatch, short)


def test_a_third_of_the_tasks_that_fail_stalls_nothing(monkeypatch):
    queue = ScriptedQueue(lambda task: (FAILED, FAILED) if task % 3 == 0 else MIXED, lambda task: 1 + task % 5)
    batch, watch = sampled(queue, monkeypatch, filtering(max_batches=2), size=32)
    assert len(batch.keys) == 64
    assert watch.metrics()["env/groups/without_signal/infrastructure"] == 16


@pytest.mark.parametrize("max_batches", [0, 9])
def test_an_environment_that_never_works_stops_the_run_with_its_error(max_batches, monkeypatch):
    queue = ScriptedQueue(lambda _: (FAILED, FAILED))
    queue.tags["infrastructure_failures_train"]["f"] = {"stop_reason": "env_error", "error": "the disk is full"}
    with pytest.raises(RuntimeError, match=r"no episode of 3 consecutive batches .*: env_error: the disk is full"):
        sampled(queue, monkeypatch, filtering(max_batches=max_batches))
    # the last of 3 batches of 4 tasks has ended
    assert queue.num_drawn == 12


def test_a_search_without_limit_warns(monkeypatch, caplog):
    with caplog.at_level(logging.WARNING, logger="trm_agent"):
        sampled(ScriptedQueue(lambda task: MIXED if task > 40 else WRONG), monkeypatch, filtering())
    told = [record.getMessage() for record in caplog.records]
    # at 20 and 40 of the 45 tasks that are drawn: 5 and 10 batches of 4
    assert len(told) == 2
    assert told[0].startswith("step 1: 0 of 4 groups have signal after 16 tasks, 4 generation batches")


def test_without_a_filter_no_group_is_replaced_and_all_are_known(monkeypatch):
    queue = ScriptedQueue(scripted({0: RIGHT, 1: WRONG}, MIXED))
    batch, watch = sampled(queue, monkeypatch, None)
    assert (tasks(batch), queue.num_drawn) == (["t0", "t1", "t2", "t3"], 4)
    assert watch.metrics() == {}
    assert watch.left_out() == []
    assert [group.successes for _, group in sorted(watch.groups.items())][:2] == [[True, True], [False, False]]


def test_a_validation_keeps_its_tasks(monkeypatch):
    queue = ScriptedQueue(lambda _: RIGHT)
    made = buffer(queue, monkeypatch)
    made.watch = GroupWatch(filtering())
    queue.tags["val"] = {"v": {"is_prompt": True, "status": "finished", "global_steps": 1}, "v_0_0": {"seq_len": 5}}
    batch, _ = made.sample(global_steps=1, partition_id="val", batch_size=1)
    assert batch.keys == ["v_0_0"]


def test_an_all_masked_batch_is_drawn_anew_and_named_in_the_end(monkeypatch):
    queue = ScriptedQueue(lambda _: (MASKED, MASKED))
    made = buffer(queue, monkeypatch)
    queue.draw(4)
    with pytest.raises(RuntimeError, match=r"but 24 episodes ran out of tokens and are masked \(env.overlong"):
        made.sample(global_steps=1, partition_id="train", batch_size=4)


def test_a_curriculum_learns_of_a_batch_that_is_masked_as_a_whole_and_drawn_anew(monkeypatch):
    # of horizons 2 and 3 two groups each fail for want of tokens, and two each are right in the batch in their place
    queue = ScriptedQueue(lambda task: (MASKED, MASKED) if task < 4 else RIGHT)
    batch, watch = sampled(queue, monkeypatch, None)
    assert (tasks(batch), len(watch.groups)) == (["t4", "t5", "t6", "t7"], 8)
    curriculum = Curriculum([2, 3], seed=0, settings=CurriculumConfig(enable=True))
    curriculum.observe(watch.drain())
    assert curriculum.success == {2: 0.5, 3: 0.5}
