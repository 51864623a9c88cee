"""Tasks by index, and what is made of the episodes."""

import json
from itertools import islice

import pytest
from omegaconf import OmegaConf

from trm_agent.verl_plugin.driver.dataset import EnvDataset
from trm_agent.verl_plugin.driver.episode_metrics import (
    failure_metrics,
    fingerprint,
    training_metrics,
    validation_metrics,
)

ENV = {
    "id": "trm/ChainMath-v0",
    "train": {"horizons": [3, 4], "split": "train", "num_tasks": 1000, "seed": 0},
    "val": {"horizons": [8], "split": "held_out", "num_tasks": 10, "seed": 0},
}


def tasks(stream: str, number: int, seed: int = 0) -> list[dict]:
    env = OmegaConf.create(json.loads(json.dumps(ENV).replace('"seed": 0', f'"seed": {seed}')))
    dataset = EnvDataset(stream, config=OmegaConf.create({"env": env}))
    return [json.loads(dataset[index]["env_task"]) for index in islice(range(len(dataset)), number)]


def test_a_task_is_a_function_of_seed_stream_and_index() -> None:
    assert tasks("train", 20) == tasks("train", 20)
    seeds = [task["seed"] for task in tasks("train", 500)]
    assert len(set(seeds)) == 500
    assert not set(seeds) & {task["seed"] for task in tasks("train", 500, seed=1)}
    assert not set(seeds) & {task["seed"] for task in tasks("val", 10)}


def test_horizons_take_turns_and_the_split_goes_along() -> None:
    assert [task["options"] for task in tasks("train", 3)] == [
        {"horizon": 3, "split": "train"},
        {"horizon": 4, "split": "train"},
        {"horizon": 3, "split": "train"},
    ]
    assert tasks("val", 1)[0]["options"] == {"horizon": 8, "split": "held_out"}


def test_the_first_tasks_of_validation_come_once_more_to_be_played_greedily() -> None:
    env = OmegaConf.create({**ENV, "val": {**ENV["val"], "horizons": [4, 8], "greedy_tasks": 3}})
    dataset = EnvDataset("val", config=OmegaConf.create({"env": env}))
    rows = [dataset[index] for index in range(len(dataset))]
    assert [row["data_source"] for row in rows[8:]] == ["h4", "h8", "greedy_h4", "greedy_h8", "greedy_h4"]
    played = [json.loads(row["env_task"]) for row in rows]
    assert [task.pop("greedy") for task in played] == [False] * 10 + [True] * 3
    assert played[10:] == played[:3]
    env.val.greedy_tasks = 50
    assert len(EnvDataset("val", config=OmegaConf.create({"env": env}))) == 20
    assert len(EnvDataset("train", config=OmegaConf.create({"env": env}))) == 1000


def test_files_are_refused() -> None:
    with pytest.raises(ValueError, match="leave the field"):
        EnvDataset("train.parquet", config=OmegaConf.create({"env": ENV}))


def episode(seed: int, success: bool, horizon: int = 4, stop: str = "terminated") -> dict:
    return {
        "seed": seed,
        "horizon": horizon,
        "success": success,
        "stop_reason": stop,
        "turns": 5,
        "tool_calls": 4,
        "malformed_turns": 1,
        "cut_turns": 2,
        "nll": 10.0,
        "model_tokens": 40,
        "response_tokens": 100,
        "generate_s": 1.0,
        "env_s": 0.5,
    }


def test_training_metrics_count_what_was_played_and_what_failed() -> None:
    played = [
        episode(1, True),
        episode(1, False),
        episode(2, True, horizon=3),
        episode(2, True, horizon=3, stop="max_turns"),
    ]
    failed = [{"stop_reason": "env_error"}, {"stop_reason": "env_error"}, {"stop_reason": "env_timeout"}]
    metrics = training_metrics(played, failed, step_seconds=2.0)
    assert metrics["env/success"] == 0.75
    assert (metrics["env/success/h3"], metrics["env/success/h4"]) == (1.0, 0.5)
    assert metrics["env/infrastructure_failures"] == 3
    assert metrics["env/infrastructure_failures/env_error"] == 2
    assert metrics["env/stop_reason/max_turns"] == 0.25
    assert metrics["env/malformed_turn_frac"] == 0.2  # 4 of 20 turns
    assert metrics["env/cut_turn_frac"] == 0.4
    assert metrics["env/token_nll"] == 0.25
    assert metrics["run/tokens_per_s"] == 80.0  # 160 tokens of the model in 2 s
    assert metrics["run/data_fingerprint"] == fingerprint([2, 1])


def test_what_an_environment_counts_is_averaged_over_the_episodes_that_it_ended() -> None:
    ended = {**episode(1, True), "numbers": {"step_accuracy": 0.5}}
    cut = {**episode(2, False, stop="max_turns"), "numbers": {}}
    assert training_metrics([ended, cut], [], step_seconds=1.0)["env/task/step_accuracy"] == 0.5


def test_the_shares_of_endings_add_up_and_a_lucky_answer_is_a_success() -> None:
    slip = {"first_mistake/a_slip": 1.0, "first_mistake/other": 0.0}
    played = [
        {**episode(1, True), "numbers": slip, "malformed_turns": 0},
        {**episode(1, False), "numbers": slip},
        {**episode(2, False), "numbers": slip, "malformed_turns": 0},
        {**episode(2, False, horizon=3, stop="max_tokens"), "numbers": {}},
    ]
    metrics = training_metrics(played, [], step_seconds=1.0)
    shares = {name: value for name, value in metrics.items() if name.startswith("env/ending")}
    assert shares == {
        "env/ending/h4/solved_despite_a_mistake": 0.25,
        "env/ending_after_malformed/h4/mistake/a_slip": 0.25,
        "env/ending/h4/mistake/a_slip": 0.25,
        "env/ending_after_malformed/h3/ran_out_of_tokens": 0.25,
    }
    assert sum(value for name, value in shares.items() if "solved" in name) == metrics["env/success"]


def test_what_the_models_text_broke_is_counted_and_is_in_every_rate() -> None:
    broken = {**episode(1, False), "scorer_error": "ValueError: five"}
    metrics = training_metrics([broken, {**episode(2, True), "scorer_error": None}], [], step_seconds=1.0)
    assert (metrics["env/scorer_errors"], metrics["env/success"], metrics["env/num_episodes"]) == (1, 0.5, 2)


def test_late_turns_are_counted_by_the_tokens_that_they_could_have() -> None:
    late = [{"stop_reason": "generator_timeout", "late_turn_tokens": tokens} for tokens in (1, 1000, 1024, 1025)]
    reason = "env/infrastructure_failures/generator_timeout"
    assert failure_metrics([*late, {"stop_reason": "env_error", "late_turn_tokens": None}]) == {
        "env/infrastructure_failures": 5.0,
        "env/infrastructure_failures/env_error": 1.0,
        reason: 4.0,
        f"{reason}/le_1": 1.0,
        f"{reason}/le_1024": 2.0,
        f"{reason}/le_2048": 1.0,
    }


def test_a_batch_without_episodes_still_has_its_counts() -> None:
    assert training_metrics([], [{"stop_reason": "env_error"}], 1.0) == {
        "env/num_episodes": 0.0,
        "env/infrastructure_failures": 1.0,
        "env/infrastructure_failures/env_error": 1.0,
    }
    assert failure_metrics([]) == {"env/infrastructure_failures": 0.0}


def test_the_fingerprint_knows_tasks_not_their_order() -> None:
    assert fingerprint([3, 1, 2, 2]) == fingerprint([1, 2, 3])
    assert fingerprint([1, 2, 3]) != fingerprint([1, 2, 4])


def test_validation_is_by_horizon_and_leaves_out_what_was_not_scored() -> None:
    metrics = validation_metrics(["h4", "h4", "h8", "h8"], [1.0, 0.0, 1.0, None])
    assert metrics == {
        "env/val_success/h4": 0.5,
        "env/val_num_episodes/h4": 2.0,
        "env/val_success/h8": 1.0,
        "env/val_num_episodes/h8": 1.0,
    }
