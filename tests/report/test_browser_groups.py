"""The viewer's groups in a headless Chromium: rewards, reasons of a rejection, expected answers, search in texts."""

import pytest

from tests.report.browser import NEEDS_BROWSER, launched, opened, wait_for
from tests.report.synthetic import END, TWO, episode_row, write_run, write_tokenizer
from trm_agent.report.build import build_report

pytestmark = [pytest.mark.slow, NEEDS_BROWSER]
COUNTED = (
    "left => document.getElementById('count').textContent.startsWith(`${left} of 4 episodes`)"
    " && !document.getElementById('count').textContent.includes('so far')"
)


def test_groups_reasons_expected_answers_and_texts_are_shown_and_found(tmp_path) -> None:
    made = []
    for number, (task, success) in enumerate([("aaaa", True), ("bbbb", False), ("aaaa", False), ("aaaa", True)]):
        row = episode_row(
            success=success, accepted=number != 2, log_ratios=[0.25] * 8, seed=number, expected_answer="41"
        )
        if number == 3:
            row = episode_row(success=success, answer=[TWO, TWO, TWO, END], log_ratios=[0.25] * 8, expected_answer="42")
        made.append(row | {"task": task, "rejected_by": ["avg"] if number == 2 else []})
    run = write_run(tmp_path / "run", made)
    write_tokenizer(run / "checkpoints" / "global_step_3" / "actor" / "huggingface")
    file = build_report([run], tmp_path / "page.html").path
    with launched() as chrome, opened(chrome, file) as found:
        page = found.page
        assert page.locator("h2").first.inner_text() == "Results"
        assert "How episodes ended" in page.inner_text("#view-curves")
        page.click("#tab-episodes")
        # the tab has the focus still
        page.keyboard.press("j")
        wait_for(page, "task aaaa · 1")
        assert "group of 3, mean reward 0.6667; reward (advantage) of each:" in page.inner_text(".in-group")
        members = page.locator(".in-group button")
        of_each = ["1 (+0.25)", "0 (+0.25)", "1 (+0.25)"]
        assert members.all_inner_texts() == of_each
        assert page.locator(".in-group [aria-current=true]").inner_text() == of_each[0]
        assert page.inner_text(".expected") == "expected answer: 41"
        page.select_option("#sort", "group")
        names = page.locator(".row-id").all_inner_texts()
        assert names == [f"step 1 · h2 · task {name}" for name in ("aaaa · 1", "aaaa · 2", "aaaa · 3", "bbbb · 1")]
        page.keyboard.press("Escape")
        page.keyboard.press("j")
        wait_for(page, "task aaaa · 2")
        assert "rejected by avg" in page.inner_text(".badges")
        assert "wrong after a malformed call" in page.inner_text(".badges")
        for words, left in (("222", 1), ("alpha beta", 3), ("42", 1), ("avg", 1), ("nowhere", 0), ("aaaa", 3)):
            page.fill("#search", words)
            page.wait_for_function(
                "left => document.getElementById('count').textContent.startsWith(`${left} of 4 episodes`)"
                " && !document.getElementById('count').textContent.includes('so far')",
                arg=left,
            )
        assert (found.errors, found.requests) == ([], [])
