"""The marks beside the figures on the screen, and pages of older summaries."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluate.test_summary import evaluation, failed, row
from trm_agent.evaluate.statistics.intervals import FEW_TASKS, UNSEEN_TASKS
from trm_agent.evaluate.statistics.paired import RARE_DIFFERENCES
from trm_agent.evaluate.statistics.screen import MARKS
from trm_agent.evaluate.summary import summarise, table
from trm_agent.report.evaluation import evaluation_tables
from trm_agent.report.sources import Source

NEW_KEYS = ("least", "most", "note", "tasks_that_lost_samples", "scorer_errors")


def without_new_keys(summary: Any) -> Any:
    if isinstance(summary, list):
        return [without_new_keys(each) for each in summary]
    if not isinstance(summary, dict):
        return summary
    return {key: without_new_keys(value) for key, value in summary.items() if key not in NEW_KEYS}


def alike(tasks: int, samples: int, successes: int, label: str = "a") -> list[dict[str, Any]]:
    """Tasks of which nearly the same number of samples succeeds."""
    return [
        row(label, task, sample, sample < successes + task % 3 - 1, None)
        for task in range(tasks)
        for sample in range(samples)
    ]


@pytest.mark.parametrize(
    ("tasks", "samples", "note"),
    [(20, 64, UNSEEN_TASKS), (40, 64, UNSEEN_TASKS), (10, 4, FEW_TASKS), (200, 4, None)],
)
def test_an_interval_that_says_less_than_it_seems_is_marked(tasks: int, samples: int, note: str | None) -> None:
    summary = summarise(alike(tasks, samples, samples * 9 // 10), samples)
    assert summary["results"][0]["success"]["note"] == note
    lines = table(summary).splitlines()
    figures = next(line for line in lines if line.startswith("a "))
    for other, mark in MARKS.items():
        assert (f"{mark} {other}" in lines) == (other == note)
        assert (f"]{mark}" in figures) == (other == note)
    assert max(map(len, lines)) <= 100


def test_a_difference_that_rare_tasks_can_spoil_is_marked() -> None:
    few = [*alike(20, 64, 50, "a"), *alike(20, 64, 54, "b")]
    many = [row(label, task, 0, bool((task * 7 + len(label)) % 10 < 6), None) for label in "ab" for task in range(400)]
    for rows, samples, is_marked in ((few, 64, True), (many, 1, False)):
        summary = summarise(rows, samples, num_resamples=100)
        assert (summary["comparisons"][0]["note"] == RARE_DIFFERENCES) == is_marked
        assert (f"{MARKS[RARE_DIFFERENCES]} {RARE_DIFFERENCES}" in table(summary).splitlines()) == is_marked


def test_a_summary_from_before_is_still_shown(tmp_path: Path) -> None:
    summary = summarise([*evaluation(), failed("trained", 60, 0, 8)], 4, num_resamples=100)
    old = without_new_keys(summary)
    assert "warm start" in table(old)
    shown, now = (evaluation_tables([Source(tmp_path, "run", "evaluation")], [each]) for each in (old, summary))
    assert [each["title"] for each in shown] == [each["title"] for each in now]
    assert "lost samples" not in str(shown[0]["rows"])
    assert "lost samples failed to succeeded" in str(now[0]["rows"])


@pytest.mark.parametrize(("succeeds", "lost"), [(True, True), (False, True), (True, False), (False, False)])
def test_a_horizon_length_without_a_fit_says_what_lost_samples_allow(
    succeeds: bool, lost: bool, tmp_path: Path
) -> None:
    rows = [
        failed("a", task, sample, 2 + 6 * (task % 2)) if lost and sample < 3 and task % 2 == succeeds
        else row("a", task, sample, succeeds, 2 + 6 * (task % 2))
        for task in range(20) for sample in range(4)
    ]  # fmt: skip
    summary = summarise(rows, 4)
    length = summary["results"][0]["horizon_length"]
    assert length["reason"] == ("all succeed" if succeeds else "all fail")
    said = f"{length['low']:.1f} or more" if succeeds else f"{length['high']:.1f} or less"
    page = str(evaluation_tables([Source(tmp_path, "run", "evaluation")], [summary])[0]["rows"])
    for shown in (table(summary), page):
        assert (f"{length['reason']}; the lost samples allow {said}" in shown) == lost
        assert ("the lost samples allow" in shown) == lost
    assert not lost or (2 < (length["low"] or length["high"]) < 8)


def test_the_page_marks_intervals_as_the_screen_does_and_counts_tasks_that_lack_samples(tmp_path: Path) -> None:
    rows = [*alike(20, 64, 50, "a"), *alike(20, 64, 54, "b")]
    success, _, paired = evaluation_tables(
        [Source(tmp_path, "run", "evaluation")], [summarise(rows, 64, num_resamples=100)]
    )
    assert f"]{MARKS[UNSEEN_TASKS]}" in success["rows"][0][5]
    assert f"{MARKS[UNSEEN_TASKS]} {UNSEEN_TASKS}" in success["about"]
    assert f"]{MARKS[RARE_DIFFERENCES]}" in paired["rows"][0][5]
    assert f"{MARKS[RARE_DIFFERENCES]} {RARE_DIFFERENCES}" in paired["about"]
    # an evaluation that goes on: five tasks wait for their last sample
    part = [each for each in alike(30, 4, 2) if each["task"] >= 5 or each["sample"] < 3]
    (success, *_) = evaluation_tables([Source(tmp_path, "run", "evaluation")], [summarise(part, 4)])
    assert "tasks" not in success["rows"][0][5]
    assert "on 25 tasks" in success["rows"][0][6]
    assert FEW_TASKS not in success["about"]


def test_marks_differ() -> None:
    assert len(set(MARKS.values())) == len(MARKS) == 3
    assert np.all([len(mark) == 1 for mark in MARKS.values()])
