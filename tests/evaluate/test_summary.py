"""The figures of results that are known in advance, and what the table says about them."""

import json
import random
from typing import Any

import pytest

from trm_agent.evaluate.statistics.intervals import mean_interval
from trm_agent.evaluate.summary import effective_rows, summarise, table

Row = dict[str, Any]


def row(checkpoint: str, task: int, sample: int, success: bool, horizon: int | None = 4, **other: Any) -> Row:
    return {
        "checkpoint": checkpoint, "env": "sums", "env_id": "trm/Sums-v0", "horizon": horizon, "task": task,
        "seed": 100 + task, "sample": sample, "success": success, "reward": float(success),
        "stop_reason": "terminated", "error": None, "turns": 4, "tool_calls": 2, "malformed_turns": 1,
        "model_tokens": 40, "response_tokens": 90, "generate_s": 1.0, "env_s": 0.5, "total_s": 1.6,
        "numbers": {"step_accuracy": 0.75 + 0.25 * success}, **other,
    }  # fmt: skip


def failed(checkpoint: str, task: int, sample: int, horizon: int | None = 4) -> Row:
    other = {"reward": None, "stop_reason": "env_error", "error": "the environment raised", "numbers": {}, "turns": 99}
    return row(checkpoint, task, sample, False, horizon, **other)


def evaluation() -> list[Row]:
    """Two checkpoints, 12 tasks at each of three horizons, 4 samples: all, half or none succeed; then 3 of 4 more."""
    rows = []
    for task in range(36):
        horizon = (4, 8, 16)[task % 3]
        for sample in range(4):
            rows.append(row("warm start", task, sample, {4: True, 8: sample < 2, 16: False}[horizon], horizon))
            rows.append(row("trained", task, sample, {4: True, 8: sample < 3, 16: sample < 1}[horizon], horizon))
    return rows


def result(summary: dict[str, Any], checkpoint: str) -> dict[str, Any]:
    return next(found for found in summary["results"] if found["checkpoint"] == checkpoint)


def test_the_figures_are_those_of_the_rows() -> None:
    summary = summarise(evaluation(), 4)
    assert (summary["samples"], summary["episodes"], summary["infrastructure_failures"]) == (4, 288, 0)
    assert (summary["checkpoints"], summary["environments"]) == (["warm start", "trained"], ["sums"])
    old, new = result(summary, "warm start"), result(summary, "trained")
    assert (old["tasks"], old["episodes"], old["tasks_without_episode"]) == (36, 144, 0)
    assert old["success"]["value"] == pytest.approx(0.5)
    assert [part["horizon"] for part in old["by_horizon"]] == [4, 8, 16]
    assert [part["success"]["value"] for part in new["by_horizon"]] == pytest.approx([1, 0.75, 0.25])
    # 2 of 4 right: pass@2 = 1 - C(2, 2) / C(4, 2) = 5/6, pass^2 = 1/6
    middle = old["by_horizon"][1]
    assert middle["pass_at_k"]["2"]["value"] == pytest.approx(5 / 6)
    assert middle["pass_hat_k"]["2"]["value"] == pytest.approx(1 / 6)
    assert old["pass_at_k"]["1"] == old["success"] == old["pass_hat_k"]["1"]
    assert list(old["pass_at_k"]) == ["1", "2", "3", "4"]
    assert old["means"] | {"reward": None} == {
        "reward": None, "turns": 4, "tool_calls": 2, "malformed_turns": 1, "model_tokens": 40, "response_tokens": 90,
        "generate_s": 1, "env_s": 0.5, "total_s": 1.6,
    }  # fmt: skip
    assert old["malformed_turn_frac"] == pytest.approx(0.25)
    assert old["numbers"] == {"step_accuracy": pytest.approx(0.875)}
    assert old["stop_reasons"] == {"terminated": 144}


def test_the_interval_is_that_of_the_tasks_within_their_horizons() -> None:
    found = result(summarise(evaluation(), 4), "trained")["success"]
    values = [(1, 0.75, 0.25)[task % 3] for task in range(36)]
    expected = mean_interval(values, [task % 3 for task in range(36)])
    assert (found["low"], found["high"]) == (expected.low, expected.high)


@pytest.mark.slow
def test_the_horizon_length_and_the_steps_are_there() -> None:
    old = result(summarise(evaluation(), 4), "warm start")
    assert old["horizon_length"]["status"] == "inside"
    assert old["horizon_length"]["steps"] == pytest.approx(8, rel=0.01)
    assert [part["step_accuracy"] for part in old["geometric"]["by_horizon"]] == pytest.approx([1, 0.875, 0.75])
    plain = [{**found, "numbers": {}} for found in evaluation()]
    assert result(summarise(plain, 4), "warm start")["geometric"] is None


@pytest.mark.slow
def test_each_checkpoint_is_compared_with_the_first_on_the_tasks_of_both() -> None:
    rows = evaluation() + [row("third", task, 0, True, (4, 8, 16)[task % 3]) for task in range(6)]
    comparisons = summarise(rows, 4)["comparisons"]
    assert [(found["first"], found["second"]) for found in comparisons] == [
        ("warm start", "trained"),
        ("warm start", "third"),
    ]
    # (0 + 1/4 + 1/4) / 3
    assert comparisons[0]["difference"] == pytest.approx(1 / 6)
    assert comparisons[0]["low"] > 0
    assert comparisons[0]["p_value"] < 0.001
    assert [part["difference"] for part in comparisons[0]["by_horizon"]] == pytest.approx([0, 0.25, 0.25])
    assert comparisons[1]["num_tasks"] == 6
    assert comparisons[1]["difference"] == pytest.approx(0.5)
    reverse = summarise(rows, 4, checkpoints=["trained", "warm start"])["comparisons"]
    assert [(found["first"], found["second"]) for found in reverse] == [("trained", "warm start"), ("trained", "third")]


@pytest.mark.slow
def test_infrastructure_failures_are_in_no_figure() -> None:
    clean = evaluation()
    ragged = [found for found in clean if not (found["task"] == 1 and found["sample"] == 3)]
    with_failures = [*ragged, failed("warm start", 1, 3, 8), failed("warm start", 40, 0, 8)]
    got, want = (result(summarise(rows, 4), "warm start") for rows in (with_failures, ragged))
    assert got["infrastructure_failures"] == {"env_error": 2}
    assert got["tasks_without_episode"] == 1
    assert got["by_horizon"][1]["infrastructure_failures"] == {"env_error": 2}
    for part in (*got["by_horizon"], *want["by_horizon"], got, want):
        for name in ("infrastructure_failures", "tasks_without_episode", "tasks_that_lost_samples"):
            part.pop(name)
    # all but what says how far they can have moved a figure
    assert without_bounds(got) == without_bounds(want)
    assert got["tasks"] == 36
    # task 1 has 2 of 3 right: its own rate, not that of the episodes
    assert got["by_horizon"][1]["success"]["value"] == pytest.approx((11 * 0.5 + 2 / 3) / 12)
    assert got["by_horizon"][1]["pass_at_k"]["4"]["num_tasks"] == 11


def without_bounds(figures: Any) -> Any:
    if isinstance(figures, list):
        return [without_bounds(each) for each in figures]
    if not isinstance(figures, dict):
        return figures
    return {key: without_bounds(value) for key, value in figures.items() if key not in ("low", "high", "least", "most")}


def test_episodes_whose_text_broke_the_scorer_are_in_every_figure_and_counted() -> None:
    clean = evaluation()
    broken = [{**row, "scorer_error": "ValueError: five"} if row["task"] == 1 else row for row in clean]
    got, want = (result(summarise(rows, 4), "warm start") for rows in (broken, clean))
    assert (got["scorer_errors"], want["scorer_errors"]) == (4, 0)
    assert got["success"] == want["success"]


def test_only_failures_give_nulls_and_no_crash() -> None:
    rows = [failed(label, task, 0) for label in ("a", "b") for task in range(3)]
    summary = summarise(rows, 2)
    found = result(summary, "a")
    assert (found["tasks"], found["episodes"], found["tasks_without_episode"]) == (0, 0, 3)
    assert found["success"] == {
        "value": None, "low": None, "high": None, "num_tasks": 0, "least": 0, "most": 1, "note": None
    }  # fmt: skip
    assert found["means"]["turns"] is None
    assert found["horizon_length"]["reason"] == "no horizon"
    assert summary["comparisons"][0]["p_value"] is None
    text = table(summary)
    assert "[-, -]" in text
    assert "env_error 3" in text
    json.dumps(summary, allow_nan=False)


def test_no_row_and_one_task_give_a_summary() -> None:
    assert summarise([], 1)["results"] == []
    assert "0 episodes" in table(summarise([], 1))
    one = summarise([row("a", 0, 0, True, None)], 5)
    assert result(one, "a")["success"]["value"] == 1
    assert result(one, "a")["success"]["low"] < 0.5
    assert result(one, "a")["by_horizon"] == []
    assert result(one, "a")["pass_at_k"]["5"]["value"] is None
    json.dumps(one, allow_nan=False)
    assert "horizon length" not in table(one)


def test_a_later_row_replaces_a_failed_one_and_no_other() -> None:
    good, bad, late = row("a", 0, 0, True), failed("a", 0, 0), row("a", 0, 0, False)
    assert effective_rows([bad, good]) == [good]
    assert effective_rows([good, bad, late]) == [good]
    assert effective_rows([bad, failed("a", 0, 0, 8)])[0]["horizon"] == 8


@pytest.mark.slow
def test_the_order_of_the_rows_does_not_matter() -> None:
    rows = [*evaluation(), failed("trained", 50, 0)]
    order = {"checkpoints": ["warm start", "trained"], "environments": ["sums"]}
    expected = json.dumps(summarise(rows, 4, **order))
    random.Random(0).shuffle(rows)
    assert json.dumps(summarise(rows, 4, **order)) == expected


def test_the_summary_is_json_without_nan() -> None:
    rows = evaluation()
    rows[0]["numbers"] = {"step_accuracy": float("nan")}
    rows[1]["reward"] = float("inf")
    summary = summarise(rows, 4)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="samples: got 0"):
        summarise([], 0)
    with pytest.raises(ValueError, match="vanished"):
        summarise([row("a", 0, 0, True, stop_reason="vanished")], 1)


def test_the_table_says_it_in_100_columns() -> None:
    rows = [*evaluation(), failed("trained", 60, 0, 8), row("trained", 61, 0, False, 8, stop_reason="max_tokens")]
    rows += [row("a very long label of a checkpoint that goes on", task, 0, True, 4) for task in range(5)]
    rows += [{**found, "env": "other"} for found in evaluation() if found["checkpoint"] == "trained"]
    text = table(summarise(rows, 4))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    for expected in ("avg@4", "pass@4", "pass^4", "95 % interval", "sums", "other", "warm start", "trained minus warm"):
        assert expected in text
    warm = next(line for line in lines if line.startswith("warm start"))
    assert warm.split()[2:5] == ["all", "36", "50.0"]
    assert any(line.split()[:3] == ["8", "12", "50.0"] for line in lines)
    assert "p < 0.001" in text
    assert "above 4: all succeed" in text
    assert "max_tokens 0.7 %" in text
    assert "env_error 1" in text
    assert "1 infrastructure failures" in text
