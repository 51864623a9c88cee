"""The plots hold what the summary says."""

from pathlib import Path

import pytest
from matplotlib import pyplot

from tests.evaluate.test_summary import evaluation, failed, row
from trm_agent.evaluate.plots import draw_plots, draw_stop_reasons, draw_success
from trm_agent.evaluate.summary import summarise


@pytest.mark.slow
def test_each_environment_gets_its_plots(tmp_path: Path) -> None:
    rows = evaluation() + [{**found, "env": name} for found in evaluation() for name in ("a/b", "a b")]
    files = draw_plots(summarise(rows, 4), tmp_path / "plots")
    assert len(set(files)) == 6
    assert {file.name for file in files} >= {"success-sums.png", "stop_reasons-sums.png"}
    for file in files:
        assert file.parent == tmp_path / "plots"
        assert file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert pyplot.get_fignums() == []


def test_success_is_drawn_with_its_intervals() -> None:
    results = summarise(evaluation(), 4)["results"]
    figure, axes = pyplot.subplots()
    draw_success(axes, results, 4)
    assert len(axes.containers) == 2
    line, _, (bars,) = axes.containers[1]
    assert list(line.get_ydata()) == pytest.approx([1, 0.75, 0.25])
    ends = [segment[:, 1] for segment in bars.get_segments()]
    for (low, high), part in zip(ends, results[1]["by_horizon"], strict=True):
        assert (low, high) == pytest.approx((part["success"]["low"], part["success"]["high"]))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["warm start", "trained"]
    pyplot.close(figure)


def test_stop_reasons_are_shares_of_the_episodes_without_failures() -> None:
    rows = [row("a", task, 0, True, stop_reason="max_tokens" if task else "terminated") for task in range(4)]
    results = summarise([*rows, failed("a", 9, 0)], 1)["results"]
    figure, axes = pyplot.subplots()
    draw_stop_reasons(axes, results, 1)
    widths = {text.get_text(): bars[0].get_width() for text, bars in zip(
        axes.get_legend().get_texts(), axes.containers, strict=True)}  # fmt: skip
    assert widths == pytest.approx({"max_tokens": 0.75, "terminated": 0.25})
    pyplot.close(figure)


def test_odd_labels_and_missing_figures_are_drawn(tmp_path: Path) -> None:
    rows = [row("_cost $x$_{", task, 0, True, None) for task in range(3)]
    rows += [failed("_broken $", 0, 0), {**failed("_broken $", 0, 0), "env": "../up"}]
    files = draw_plots(summarise(rows, 1), tmp_path)
    assert sorted(file.name for file in files) == ["stop_reasons-sums.png", "success-sums.png"]
    assert draw_plots(summarise([], 1), tmp_path) == []
