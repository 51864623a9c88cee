"""The versions of the policies that sampled an episode: in the page's data, and where a reader sees them."""

import json

import pytest

from tests.report.browser import NEEDS_BROWSER, launched, opened, wait_for
from tests.report.synthetic import episode_row, write_run, write_tokenizer
from trm_agent.report.build import build_report
from trm_agent.report.codec import unpack
from trm_agent.report.episodes import pack_episodes
from trm_agent.report.sources import open_sources

# two turns of four tokens with two of an observation between: the first turn was cut once, the second twice
VERSIONS = [3, 3, 4, 4, -1, -1, 4, 6, 7, 7]


def run_of(folder, step=9):
    run = write_run(folder / "run", [episode_row(step=step) | {"rollout_versions": VERSIONS}, episode_row(step=step)])
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    metrics[-1] |= {"trm/acceptance_lag_0": 0.9, "trm/acceptance_lag_2": 0.25, "trm/token_kl_mean_lag_2": 0.01}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    write_tokenizer(run / "checkpoints" / "global_step_3" / "actor" / "huggingface")
    return run


def test_the_page_has_where_each_version_begins(tmp_path):
    texts: dict[int, str] = {}
    pack_episodes(open_sources([run_of(tmp_path)]), 9, texts.__setitem__)
    headers = [unpack(texts[number])[0] for number in (0, 1)]
    # of the eight tokens of the model
    assert headers[0]["versions"] == [[0, 3], [2, 4], [5, 6], [6, 7]]
    assert (headers[0]["step"], headers[1]["versions"]) == (9, [])


@pytest.mark.slow
@NEEDS_BROWSER
def test_a_reader_sees_the_versions_of_a_turn_and_of_a_token_and_the_charts_by_age(tmp_path):
    page_file = build_report([run_of(tmp_path)], tmp_path / "page.html").path
    with launched() as browser, opened(browser, page_file) as found:
        page = found.page
        assert "Acceptance by age of the oldest token" in page.content()
        page.goto(page_file.as_uri() + "#view=episodes")
        page.wait_for_selector("#list .row")
        page.keyboard.press("j")
        wait_for(page, "row 0")
        turns = page.locator(".turn.answer").all_inner_texts()
        assert ["versions 3 to 4" in turns[0], "versions 4 to 7" in turns[1]] == [True, True]
        page.wait_for_timeout(300)
        page.hover("[data-t='2']")
        # step 9 begins with version 8
        page.wait_for_function(
            "() => document.getElementById('tip').textContent.includes('version 4, 4 versions before')"
        )
        page.keyboard.press("k")
        page.keyboard.press("j")
        page.keyboard.press("j")
        wait_for(page, "row 1")
        assert "version" not in page.inner_text(".turns")
        assert (found.errors, found.requests) == ([], [])
