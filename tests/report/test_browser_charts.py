"""Charts in a headless Chromium: steps are chosen, values smoothed, equal lines named."""

import itertools
import json

import pytest

from tests.report.browser import NEEDS_BROWSER, launched, opened
from tests.report.synthetic import write_evaluation, write_run
from tests.report.test_diagnostics import MEAN_DEPTHS, run_with
from trm_agent.report.build import build_report

pytestmark = [pytest.mark.slow, NEEDS_BROWSER]
ACCEPTANCE = "#chart-acceptance"
# the ends of the horizontal axis, of 520: 56 and 506
STEPS = range(41)


def test_steps_are_chosen_values_smoothed_and_equal_lines_named(tmp_path) -> None:
    run = write_run(tmp_path / "run")
    rows = [
        {
            "step": step,
            "time": 1.0 + step,
            # 0 and 1 by turns: the mean of five is 0.4 or 0.6
            "trm/acceptance": float(step % 2),
            "trm/acceptance_length_q1": 1.0,
            "trm/acceptance_length_q2": 1.0,
        }
        for step in STEPS
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    # one run beside one evaluation: their curves are not told apart by name
    file = build_report([run, write_evaluation(tmp_path / "evaluation")], tmp_path / "page.html").path
    with launched() as chrome, opened(chrome, file) as found:
        page = found.page
        legend = page.locator(f"{ACCEPTANCE} .series button").all_inner_texts()
        same = "length quartile 2 (the same as length quartile 1)"
        assert [text.strip() for text in legend] == ["all sequences", "length quartile 1", same]

        def points() -> list[list[float]]:
            text = page.locator(f"{ACCEPTANCE} polyline").first.get_attribute("points") or ""
            return [[float(number) for number in pair.split(",")] for pair in text.split()]

        def heights() -> set[float]:
            return {height for _, height in points()}

        assert (len(points()), len(heights())) == (41, 2)
        wide = max(heights()) - min(heights())
        page.click(f"{ACCEPTANCE} button:text-is('smooth')")
        inner = [height for _, height in points()[2:-2]]
        assert max(inner) - min(inner) == pytest.approx(0.2 * wide, abs=0.2)
        page.click(f"{ACCEPTANCE} button:text-is('smooth')")
        page.locator(ACCEPTANCE).scroll_into_view_if_needed()
        box = page.locator(f"{ACCEPTANCE} svg[role=img]").bounding_box()
        assert box is not None

        def place(step: float) -> tuple[float, float]:
            return box["x"] + box["width"] * (56 + step / 40 * 450) / 520, box["y"] + box["height"] / 2

        page.mouse.move(*place(9.6))
        page.mouse.down()
        page.mouse.move(*place(20.4))
        page.mouse.up()
        # steps 10 to 20
        assert len(points()) == 11
        page.mouse.dblclick(*place(20))
        assert len(points()) == 41
        assert (found.errors, found.requests) == ([], [])


def test_the_chart_by_depth_has_two_logarithmic_axes_and_its_verdict(tmp_path) -> None:
    # a power law is a straight line there
    run = run_with(tmp_path / "run", 0.5)
    with launched() as chrome, opened(chrome, build_report([run], tmp_path / "page.html").path) as found:
        page, chart = found.page, "#chart-by_depth"
        assert "growing with depth" in page.locator(f"{chart} h3").inner_text().lower()
        assert page.locator(f"{chart} circle").count() == len(MEAN_DEPTHS)
        ticks = page.locator(f"{chart} svg text[text-anchor=middle]").all_text_contents()
        assert ticks == ["128", "256", "512"]
        lines = [line.get_attribute("points") or "" for line in page.locator(f"{chart} polyline").all()]
        points = [[float(number) for number in pair.split(",")] for pair in lines[0].split()]
        steps = [(x[0] - before[0], x[1] - before[1]) for before, x in itertools.pairwise(points)]
        # depths double: equal steps to the right, and up
        assert len(steps) == 3
        for step in steps[1:]:
            assert step == pytest.approx(steps[0], abs=0.2)
        assert steps[0][1] < 0
        assert lines[0] == lines[1]
        assert (found.errors, found.requests) == ([], [])
