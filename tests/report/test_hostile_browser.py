"""The page of a folder whose every name and value attacks it, in a headless Chromium."""

import json
from pathlib import Path

import pytest

from tests.report.browser import NEEDS_BROWSER, launched, opened, wait_for
from tests.report.synthetic import EVIL as EVIL_TOKEN
from tests.report.synthetic import episode_row, write_evaluation, write_run, write_tokenizer
from tests.report.test_hostile import EVIL, PLACES
from trm_agent.report.build import build_report

pytestmark = [pytest.mark.slow, NEEDS_BROWSER]


def test_every_view_of_a_hostile_folder_is_drawn_and_nothing_else_happens(tmp_path: Path) -> None:
    rows = [
        episode_row(answer=[EVIL_TOKEN] * 4, env=EVIL, seed=EVIL, stop_reason=name, error=EVIL, final_observation=EVIL)
        for name in (EVIL, "__proto__", "constructor")
    ]
    run = write_run(tmp_path / f"{PLACES}&lt;<b>\u2028", rows, config={EVIL: EVIL, "seed": EVIL, "__proto__": EVIL})
    write_tokenizer(run / "checkpoints" / "global_step_3" / "actor" / "huggingface")
    (run / "git.json").write_text(json.dumps({"commit": EVIL, "dirty": EVIL}))
    with (run / "metrics.jsonl").open("a") as file:
        for name in (EVIL, "__proto__"):
            file.write(json.dumps({"step": 4, f"env/stop_reason/{name}": 1.0, f"timings_s/{name}": 2.0}) + "\n")
    evaluation = write_evaluation(tmp_path / "eval")
    results = (
        (evaluation / "results.jsonl").read_text().replace('"checkpoint": "a"', f'"checkpoint": {json.dumps(EVIL)}')
    )
    (evaluation / "results.jsonl").write_text(results)
    path = build_report([run, evaluation], tmp_path / "page.html").path
    with launched() as browser, opened(browser, path) as found:
        page = found.page
        views = ("curves", "evaluation", "configuration", "episodes")
        for view in views:
            page.click(f"#tab-{view}")
            assert len(page.inner_text(f"#view-{view}")) > 100, view
        assert PLACES in page.inner_text("#view-curves") or PLACES in page.text_content("#view-curves")
        page.locator("#list .row").first.click()
        wait_for(page, "row 0")
        page.select_option("[data-choice=stop]", "__proto__")
        page.keyboard.press("Escape")
        assert page.title().startswith(PLACES)
        assert page.locator("img, iframe, object, embed, link, b").count() == 0
        assert page.locator("script").count() == 2 + len(rows) + 1 + 2
        assert found.errors == []
        assert found.requests == []
