"""Samples that the infrastructure took: no selection by difficulty passes unsaid."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from tests.evaluate.test_summary import failed, row
from trm_agent.evaluate.statistics.intervals import mean_interval, pass_at_k, pass_hat_k
from trm_agent.evaluate.statistics.lost import Counts, comparison, success_estimate
from trm_agent.evaluate.summary import summarise, table

pytestmark = pytest.mark.slow

Row = dict[str, Any]


def played(rng: np.random.Generator, lost: float, label: str = "a", tasks: int = 100) -> tuple[list[Row], np.ndarray]:
    """4 samples per task, half the tasks easy; the hard half loses samples. The rows, and those without a loss."""
    rates = np.repeat([0.9, 0.1], tasks // 2)
    success = rng.random((tasks, 4)) < rates[:, None]
    gone = (rng.random((tasks, 4)) < lost) & (rates < 0.5)[:, None]
    kept = [row(label, *divmod(i, 4), won, None) for i, won in enumerate(success.ravel())]
    away = [failed(label, *divmod(i, 4), None) for i in range(success.size)]
    return [away[i] if left else kept[i] for i, left in enumerate(gone.ravel())], success


@pytest.mark.parametrize("lost", [0.02, 0.3, 0.9])
def test_the_figures_without_a_loss_lie_between_the_bounds(lost: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        rows, success = played(rng, lost)
        found = summarise(rows, 4)["results"][0]
        num, right = np.full(100, 4), success.sum(axis=1)
        full = {"success": success.mean()}
        full |= {f"pass_at_k {k}": pass_at_k(num, right, k).mean() for k in (1, 2, 4)}
        full |= {f"pass_hat_k {k}": pass_hat_k(num, right, k).mean() for k in (1, 2, 4)}
        for name, truth in full.items():
            figure, _, k = name.partition(" ")
            estimate = found[figure][k] if k else found[figure]
            assert estimate["least"] - 1e-12 <= truth <= estimate["most"] + 1e-12
            assert estimate["low"] <= estimate["value"] <= estimate["high"]
            assert estimate["low"] < truth < estimate["high"]


def test_pass_at_4_of_the_hard_half_says_on_how_many_tasks_it_stands() -> None:
    rows, success = played(np.random.default_rng(1), 0.3)
    summary = summarise(rows, 4)
    found = summary["results"][0]
    whole = 100 - found["tasks_that_lost_samples"]
    assert found["tasks"] == 100
    assert found["pass_at_k"]["4"]["num_tasks"] == whole < 70
    truth = 0.5 * (1 - 0.1**4) + 0.5 * (1 - 0.9**4)
    # over the tasks that are left the easy half weighs too much
    assert found["pass_at_k"]["4"]["value"] > truth + 0.1
    assert found["pass_at_k"]["4"]["low"] < truth < found["pass_at_k"]["4"]["high"]
    text = table(summary)
    assert f"{100 - whole} of 100 tasks" in text
    assert f"pass@4 {100 * found['pass_at_k']['4']['value']:.1f} on {whole}: " in text
    assert max(map(len, text.splitlines())) <= 100
    assert success.any(axis=1).mean() == pytest.approx(truth, abs=0.1)


def test_a_voided_loss_cannot_raise_the_upper_bound_of_honest_play() -> None:
    # honest play: every second task fails; voiding turns those failures into infrastructure failures
    honest = [row("a", task, sample, task % 2 == 0, None) for task in range(20) for sample in range(4)]
    voided = [found if found["success"] else failed("a", found["task"], found["sample"], None) for found in honest]
    plain, bounded = (summarise(rows, 4)["results"][0]["success"] for rows in (honest, voided))
    assert (plain["value"], plain["least"], plain["most"]) == (0.5, None, None)
    assert (bounded["value"], bounded["num_tasks"], bounded["least"], bounded["most"]) == (1, 10, 0.5, 1)
    assert bounded["low"] == pytest.approx(plain["low"])


def test_no_loss_changes_nothing() -> None:
    counts = Counts(np.full(30, 4), np.arange(30) % 5, np.zeros(30, dtype=np.int64), [None] * 30)
    assert success_estimate(counts) == mean_interval((np.arange(30) % 5) / 4)
    rows, _ = played(np.random.default_rng(2), 0)
    summary = summarise(rows, 4)
    assert "lost" not in table(summary)
    assert summary["results"][0]["success"]["least"] is None


def test_a_task_of_which_all_was_lost_is_in_the_bounds() -> None:
    counts = Counts(np.array([2, 0]), np.array([2, 0]), np.array([0, 2]), [None, None])
    found = success_estimate(counts)
    assert (found.value, found.num_tasks, found.least, found.most) == (1, 1, 0.5, 1)


@pytest.mark.slow
def test_the_horizon_length_allows_for_lost_samples() -> None:
    rows = [row("a", task, 0, task % 8 < 4 or task % 3 == 0, 2 ** (1 + task % 8)) for task in range(80)]
    gone = [
        failed("a", found["task"], 0, found["horizon"]) if found["horizon"] > 32 and found["task"] % 2 else found
        for found in rows
    ]
    plain, bounded = (summarise(each, 1)["results"][0]["horizon_length"] for each in (rows, gone))
    assert bounded["low"] < plain["steps"] < (bounded["high"] or np.inf)
    assert (bounded["high"] or np.inf) > plain["high"]


@pytest.mark.slow
def test_the_difference_without_a_loss_lies_between_the_bounds() -> None:
    rng = np.random.default_rng(3)
    for seed in range(5):
        first, one = played(rng, 0.2, "a")
        second, other = played(rng, 0.4, "b")
        truth = other.mean() - one.mean()
        found = summarise(first + second, 4, seed=seed, num_resamples=300)["comparisons"][0]
        assert found["least"] <= truth <= found["most"]
        assert found["low"] <= found["least"] <= found["most"] <= found["high"]
        assert found["p_value"] == 1


def test_a_difference_that_no_loss_explains_keeps_a_small_p_value() -> None:
    none, few = np.zeros(60, dtype=np.int64), (np.arange(60) < 5).astype(np.int64)
    first = Counts(np.full(60, 4), np.arange(60) % 2, none, [None] * 60)
    second = Counts(4 - few, np.full(60, 3), few, [None] * 60)
    found = comparison(first, second, 0, 2000)
    # 3/4 - 1/8 without a loss; the five are 3 of 3 with one lost
    assert found.difference == pytest.approx(np.mean(second.successes / second.num) - 0.125)
    assert (found.least, found.most) == (pytest.approx(0.625), pytest.approx(0.625 + 5 / 240))
    assert found.p_value < 0.001
    assert found.low < found.least < found.most < found.high


def test_every_completion_of_two_tasks_lies_between_the_bounds() -> None:
    for right, lost in product(product(range(3), repeat=2), product(range(2), repeat=2)):
        counts = Counts(np.array([2, 2]), np.array(right), np.array(lost), [None, None])
        found = success_estimate(counts)
        for won in product(*(range(each + 1) for each in lost)):
            value = np.mean((np.array(right) + won) / (2 + np.array(lost)))
            assert found.low <= value <= found.high
            if any(lost):
                assert found.least - 1e-12 <= value <= found.most + 1e-12


def test_rows_of_one_problem_are_one_task() -> None:
    # each problem stands in the file four times
    rows = [row("a", task, 0, task % 12 < 6, None, problem=f"p{task % 12}") for task in range(48)]
    repeated = summarise(rows, 1)["results"][0]
    once = summarise([row("a", task, sample, task < 6, None) for task in range(12) for sample in range(4)], 1)
    assert repeated["tasks"] == 12
    assert repeated["success"] == once["results"][0]["success"]
    assert repeated["pass_at_k"] == once["results"][0]["pass_at_k"]
    # taken for 48 tasks the interval would be half as wide
    alone = summarise([{**found, "problem": None} for found in rows], 1)["results"][0]["success"]
    width = repeated["success"]["high"] - repeated["success"]["low"]
    assert width > 1.7 * (alone["high"] - alone["low"])


def test_a_problem_is_paired_with_itself_whatever_its_number() -> None:
    rows = [row("a", task, 0, task < 6, None, problem=f"p{task}") for task in range(12)]
    rows += [row("b", 11 - task, 0, task < 6, None, problem=f"p{task}") for task in range(12)]
    found = summarise(rows, 1)["comparisons"][0]
    assert (found["difference"], found["num_tasks"], found["p_value"]) == (0, 12, 1)
    # without the name the number is all there is
    plain = [{key: value for key, value in each.items() if key != "problem"} for each in rows]
    assert summarise(plain, 1)["comparisons"][0]["p_value"] != 1 or summarise(plain, 1)["results"][0]["tasks"] == 12
