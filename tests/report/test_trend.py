"""What changed over training: all steps' episodes, the first against the last, with intervals."""

from pathlib import Path

import pytest

from trm_agent.report.sources import Source
from trm_agent.report.trend import trend_tables


def step(number, success, mistake, ended=1.0):
    return {
        "step": number,
        "env/success": success,
        "env/task/first_mistake/a_slip": mistake,
        "env/task/first_mistake/other": 0.0,
        "env/stop_reason/terminated": ended,
        "env/stop_reason/max_tokens": 1 - ended,
        "env/turns/mean": 5.0,
        "env/token_nll": 0.25,
    }


def run(rows, kind="run"):
    return Source(Path("a"), "a", kind, {}, metrics=rows)


def table(rows):
    (found,) = trend_tables([run(rows)])
    return {name: cells for name, *cells in found["rows"]}, found


def test_a_mistake_that_became_rarer_has_its_change_in_percent_of_all_episodes():
    early = [step(number, 0.4, 0.5 + 0.1 * (number % 2), ended=0.8) for number in range(1, 5)]
    late = [step(number, 0.8, 0.2, ended=1.0) for number in range(5, 9)]
    rows, found = table([{"step": 0}, *early, *late])
    assert found["columns"] == ["", "steps 1 to 4", "steps 5 to 8", "change"]
    assert rows["success, %"][:2] == ["40.0", "80.0"]
    # 0.6 and 0.5 of the 80 % that the environment ended
    before, after, change = rows["failed: a slip, %"]
    assert (before, after) == ("44.0", "20.0")
    # Welch over 4 and 4 steps, one side without variance: 3 degrees of freedom, whose 97.5 % quantile is 3.182
    half = 3.182 * (4 * 4.0**2 / 3 / 4) ** 0.5
    assert change == f"-24.0 [{-24 - half:+.1f}, {-24 + half:+.1f}]"
    assert rows["failed: ran out of tokens, %"][2] == "-20.0"
    assert rows["mean -log p of the sampled tokens, nats"] == ["0.250", "0.250", "+0.000"]


def test_success_comes_first_and_the_failures_by_their_change():
    rows, _ = table([step(number, number / 40, 0.5 - number / 80) for number in range(1, 41)])
    assert list(rows) == [
        "success, %",
        "failed: a slip, %",
        "failed: other, %",
        "failed: ran out of tokens, %",
        "turns",
        "mean -log p of the sampled tokens, nats",
    ]


def test_few_steps_and_evaluations_have_no_table_and_what_is_missing_no_row():
    rows = [step(number, 0.5, 0.1) for number in range(1, 8)]
    assert trend_tables([run(rows), run([*rows, step(8, 0.5, 0.1)], "evaluation")]) == []
    bare = [{"step": number, "env/success": 0.5} for number in range(1, 9)]
    assert list(table(bare)[0]) == ["success, %"]
    odd = [{**row, "env/task/first_mistake/x": "x", "env/turns/mean": float("nan")} for row in bare]
    assert list(table(odd)[0]) == ["success, %"]


@pytest.mark.parametrize(("num", "side"), [(8, 4), (20, 4), (40, 5), (64, 8), (400, 10)])
def test_an_eighth_of_the_steps_stands_on_each_side_of_four_to_ten(num, side):
    _, found = table([step(number, 0.5, 0.1) for number in range(1, num + 1)])
    assert found["columns"][1:3] == [f"steps 1 to {side}", f"steps {num - side + 1} to {num}"]
