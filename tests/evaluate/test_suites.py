"""Suites: held out, longer than training's, and the same tasks as long as their version says so."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from trm_agent.evaluate.checks import check_environment
from trm_agent.evaluate.environments import Counts, changed, changes, named, with_large_budgets
from trm_agent.evaluate.rows import tasks_hash, with_problems
from trm_agent.evaluate.suites import list_suites, load_suite, read_suite, suite_hash, suite_names
from trm_agent.runs.compose import choices
from trm_agent.tasks import make_env, task_at
from trm_envs.base import split_of

GENERATED = [name for name in suite_names() if not read_suite(name).get("rows")]
ENVIRONMENTS = [(name, entry["env"]) for name in GENERATED for entry in read_suite(name)["environments"]]
# to be changed together with a suite's version
HASHES = {
    "long_code": (1, "a3f0ec2edefeca88"),
    "long_math": (1, "f338dbed5cb020be"),
    "nano_long": (1, "4f8861331afa588c"),
}
MATH_ROWS = [{"problem": f"What is {number} + 1?", "answer": str(number + 1)} for number in range(5)]


generated = cache(load_suite)


def environment_of(suite, env):
    return next(each for each in generated(suite).environments if each.name == env)


def of_file(suite, file):
    """The environment of a suite that asks the problems of a file."""
    (environment,) = load_suite(suite, file).environments
    return with_problems(environment, Counts(every_row=True))


def rows_file(folder: Path) -> str:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in MATH_ROWS))
    return str(file)


def drawn(environment, tasks):
    """(task id, split by content) of tasks, drawn with one environment."""
    made = make_env(environment.id, environment.module, environment.kwargs)
    found = []
    for task in tasks:
        told, info = made.reset(seed=task.seed, options=dict(task.options))
        inner = made.unwrapped
        found.append((info["task_id"], inner.task_split or split_of(inner.task_key or told)))
    made.close()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("suite", "env"), ENVIRONMENTS)
def test_the_tasks_of_a_suite_are_held_out_and_none_is_drawn_in_training(suite, env):
    environment = environment_of(suite, env)
    number = 2 * len(environment.horizons)
    ours = drawn(environment, [environment.task(index) for index in range(number)])
    assert {split for _, split in ours} == {"held_out"}
    # training's stream at the suite's own horizons, and from the suite's own seed, the worst case
    section = {"id": environment.id, "train": {"horizons": environment.horizons, "split": "train"}}
    section["train"]["seed"] = environment.seed
    theirs = drawn(environment, [task_at(section, "train", index) for index in range(number)])
    assert {split for _, split in theirs} == {"train"}
    assert len({task for task, _ in ours + theirs}) == 2 * number


@pytest.mark.slow
def test_the_horizons_end_well_past_trainings():
    for suite, env in ENVIRONMENTS:
        trained = named(env).limits_horizon
        assert max(environment_of(suite, env).horizons) >= 4 * trained, (suite, env)
    # eight times the longest of conf/env/custom.yaml's training horizons, 2, 4 and 6
    assert max(environment_of("nano_long", "chain_math").horizons) == 8 * 6


@pytest.mark.slow
@pytest.mark.parametrize("name", GENERATED)
def test_a_suite_keeps_its_tasks_as_long_as_it_keeps_its_version(name):
    suite = generated(name)
    assert (suite.version, suite_hash(name)) == HASHES[name]


def test_the_hash_sees_a_seed_a_horizon_and_the_tasks_themselves():
    environment = named("chain_math")
    first = tasks_hash(environment)
    assert first == tasks_hash(environment)
    others = [
        tasks_hash(changed(environment, changes(["reveal=upfront"], ["chain_math"]))),
        tasks_hash(environment_of("nano_long", "chain_math")),
    ]
    assert len({first, *others}) == 3


def test_each_row_of_a_file_is_one_task(tmp_path):
    environment = of_file("aime25", rows_file(tmp_path))
    assert (environment.num_tasks, environment.horizons, environment.split) == (5, (1,), "all")
    check_environment(environment)
    made = make_env(environment.id, None, environment.kwargs)
    told = [made.reset(seed=task.seed, options=task.options)[0] for task in map(environment.task, range(5))]
    made.close()
    assert told == [row["problem"] for row in MATH_ROWS]


def test_another_file_is_another_evaluation_and_another_place_is_not(tmp_path):
    here = of_file("hmmt", rows_file(tmp_path))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    there = of_file("hmmt", rows_file(elsewhere))
    assert here.rows_hash == there.rows_hash
    (tmp_path / "rows.jsonl").write_text(json.dumps({"problem": "What is 2 + 2?", "answer": "4"}) + "\n")
    assert of_file("hmmt", str(tmp_path / "rows.jsonl")).rows_hash != here.rows_hash


def test_livecodebench_takes_rows_that_read_stdin(tmp_path):
    tests = [{"input": "1\n", "output": "2\n", "testtype": "stdin"}]
    row = {"question_content": "Add one.", "public_test_cases": json.dumps(tests), "private_test_cases": tests}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    environment = of_file("livecodebench", str(tmp_path / "rows.jsonl"))
    assert (environment.num_tasks, environment.name) == (1, "code_tests")


def test_what_does_not_fit_is_refused(tmp_path):
    for arguments, message in (
        (("nano_lnog",), "--suite: got 'nano_lnog'; allowed: .*; did you mean 'nano_long'"),
        (("aime25",), "give it with --rows FILE"),
        (("nano_long", rows_file(tmp_path)), "is generated; leave --rows out, or choose one of aime25, hmmt"),
    ):
        with pytest.raises(ValueError, match=message):
            load_suite(*arguments)
    with pytest.raises(ValueError, match="no such file"):
        of_file("aime25", str(tmp_path / "none.jsonl"))


def test_every_suite_is_listed():
    listed = list_suites()
    assert all(name in listed for name in choices("suite"))
    assert "horizons 4 8 16 32 48" in listed


def test_an_environment_is_a_choice_or_an_id_and_a_wrong_name_is_told_the_closest():
    assert named("chain_math").id == "trm/ChainMath-v0"
    mine = named("my_package:mine/Task-v0")
    assert (mine.name, mine.id, mine.module) == ("mine/Task-v0", "mine/Task-v0", "my_package")
    with pytest.raises(ValueError, match="did you mean 'chain_math'"):
        named("chainmath")
    # a game, whose kind is told when it is made, and an id without a namespace
    assert [named(name).module for name in ("CartPole-v1", "my_package:Task-v0")] == [None, "my_package"]


def test_changes_reach_the_environments_that_they_name():
    wanted = changes(
        ["reveal=upfront", "b.limits.max_turns=7", "limits.max_turn_tokens=99", "a.level=full"], ["a", "b"]
    )
    base = named("chain_math")
    a, b = (changed(replace(base, name=name), wanted) for name in ("a", "b"))
    assert a.kwargs == {"protocol": "auto", "reveal": "upfront", "level": "full"}
    assert b.kwargs == {"protocol": "auto", "reveal": "upfront"}
    assert (a.fixed_limits, b.fixed_limits) == ({"max_turn_tokens": 99}, {"max_turns": 7, "max_turn_tokens": 99})


def test_changes_that_cannot_be_read_are_refused():
    for text, message in (
        ("reveal", "allowed: FIELD=VALUE"),
        ("limits.max_trun=3", "did you mean 'limits.max_turns'"),
        ("c.reveal=upfront", "--set c.reveal: no such setting"),
    ):
        with pytest.raises(ValueError, match=message):
            changes([text], ["a"])


def test_a_model_that_thinks_aloud_gets_more_tokens_than_the_nano_model():
    nano = named("composed_math")
    large = with_large_budgets(nano)
    assert nano.limits_at(4).max_response_tokens == 768
    assert (large.limits_at(4).max_response_tokens, large.limits_at(4).max_turn_tokens) == (28672, 2048)
