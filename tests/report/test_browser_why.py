"""Why success changed, in a headless Chromium: from a row to an episode with its wrong turn; flat charts are folded."""

import json

import pytest

from tests.report.browser import NEEDS_BROWSER, launched, opened, wait_for
from tests.report.synthetic import ALPHA, CALL, END, ONE, TWO, episode_row, write_run, write_tokenizer
from tests.report.test_why import risen
from trm_agent.report.build import build_report

pytestmark = [pytest.mark.slow, NEEDS_BROWSER]


def test_an_example_opens_at_the_turn_that_went_wrong_with_its_new_numbers_underlined(tmp_path) -> None:
    # the prompt has 1, the answer of the only turn 2 and 1
    rows = [
        episode_row(turns=1, answer=(CALL, TWO, ALPHA, ONE, END), success=False, stop_reason="max_tokens", seed=seed)
        for seed in (1, 2)
    ]
    run = write_run(tmp_path / "run", [episode_row(), *rows])
    steps = [{**row, "trm/acceptance": 1.0, "trm/max_token_kl": 0.1 * row["step"]} for row in risen()]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps))
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    file = build_report([run], tmp_path / "page.html", tokenizer=tokenizer).path
    with launched() as chrome, opened(chrome, file) as found:
        page = found.page
        assert page.locator(".why h2").inner_text() == "Why success changed"
        assert page.locator(".why li").count() >= 4
        example = page.locator(".why .example")
        assert example.count() == 1
        link = example.get_attribute("href")
        assert page.locator("details.flat #chart-acceptance").count() == 1
        assert page.locator("details.flat summary").inner_text() == "Acceptance, overall and by length: flat at 100.0 %"
        assert page.locator("details.flat #chart-threshold").count() == 0
        assert "of training step" in example.get_attribute("title")
        example.scroll_into_view_if_needed()
        scrolled = page.evaluate("scrollY")
        page.wait_for_timeout(300)
        example.click()
        wait_for(page, "row 1")
        assert page.locator(".turn.mistake h3").inner_text().startswith("Turn 1")
        assert "here: ran out of tokens" in page.locator(".turn.mistake h3").inner_text()
        assert page.locator(".t.odd").all_inner_texts() == ["2"]
        page.wait_for_timeout(300)
        page.go_back()
        page.wait_for_function("document.body.dataset.view === 'curves'")
        page.wait_for_function(f"Math.abs(scrollY - {scrolled}) < 3")
        with opened(chrome, None) as other:
            other.page.goto(f"{file.as_uri()}{link}")
            wait_for(other.page, "row 1")
            assert other.page.locator(".turn.mistake").count() == 1
        assert (found.errors, found.requests, other.errors) == ([], [], [])
