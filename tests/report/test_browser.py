"""The page in a headless Chromium: nothing goes wrong, nothing is fetched, the viewer finds what was planted."""

import pytest

from tests.report.browser import NEEDS_BROWSER, count, launched, opened, wait_for
from tests.report.synthetic import (
    ALPHA,
    BETA,
    END,
    EVIL,
    GAMMA,
    LINE,
    episode_row,
    write_evaluation,
    write_run,
    write_tokenizer,
)
from trm_agent.report.build import build_report

pytestmark = [pytest.mark.slow, NEEDS_BROWSER]
NUM = 120
LONG = 4000
PLANTED = 3210


def rows() -> list[dict]:
    """120 short episodes: every 4th rejected, every 3rd failed; a long one with a planted violation; a hostile one."""
    found = [
        episode_row(
            step=1 + index % 3,
            seed=1000 + index,
            horizon=2 + 2 * (index % 2),
            log_ratios=[0.0, 0.01, 0.05, 0.4 if index % 4 == 0 else 0.2, 0.0, 0.0, 0.0, 0.0],
            accepted=index % 4 != 0,
            success=index % 3 != 0,
            stop_reason="terminated" if index % 3 else "max_turns",
        )
        for index in range(NUM)
    ]
    # k2 = 0.9^2 / 2 = 0.405, the largest of all
    ratios = [0.01] * LONG
    ratios[PLANTED] = -0.9
    answer = [ALPHA, BETA, GAMMA, LINE] * (LONG // 8 - 1) + [ALPHA, BETA, GAMMA, END]
    found.append(episode_row(answer=answer, log_ratios=ratios, accepted=False, seed=4242))
    return [*found, episode_row(turns=1, answer=[EVIL, ALPHA, EVIL, END], seed=666)]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    run = write_run(folder / "first", rows(), config={"lr": 1})
    write_tokenizer(run / "checkpoints" / "global_step_3" / "actor" / "huggingface")
    other = write_run(folder / "second", config={"lr": 2}, finished=False)
    evaluation = write_evaluation(folder / "eval", finished=True)
    return build_report([run, other, evaluation], folder / "page.html").path


@pytest.fixture(scope="module")
def chrome():
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def browser(chrome, page_file):
    with opened(chrome, page_file) as found:
        yield found


@pytest.fixture
def page(browser, page_file):
    """The view of the episodes, fresh."""
    browser.page.goto("about:blank")
    browser.page.goto(page_file.as_uri() + "#view=episodes")
    browser.page.wait_for_selector("#list .row")
    yield browser.page
    assert browser.errors == []
    assert browser.requests == []


def test_the_planted_token_is_found_marked_and_explained(page) -> None:
    page.select_option("#sort", "worst")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    wait_for(page, f"row {NUM}")
    assert page.locator(f'[data-t="{PLANTED}"]').count() == 0
    page.keyboard.press("n")
    token = page.locator(".t.violates")
    token.wait_for()
    assert token.get_attribute("data-t") == str(PLANTED)
    page.wait_for_function("token => document.activeElement.dataset.t === token", arg=str(PLANTED))  # a frame later
    box = token.bounding_box()
    assert 0 < box["y"] < 900
    tip = page.inner_text("#tip")
    assert "Outside of the trust region" in tip
    # exact: log p -0.5 and -1.4, ratio e^-0.9 = 0.4066, k2 = 0.405
    for text in ('" gamma"', "id\t4", "-0.5", "-1.4", "0.4066", "0.405 nats", "threshold\t0.05"):
        assert text in tip
    assert token.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("() => document.getElementById('tip').textContent.includes('\" beta\"')")
    assert "Outside" not in page.inner_text("#tip")


def test_the_open_row_and_a_filter_of_the_address_are_marked(page, page_file) -> None:
    page.keyboard.press("j")
    wait_for(page, "row 0")
    selected = page.locator("#list [aria-selected=true]")
    assert selected.count() == 1
    assert "row 0" in selected.inner_text()
    page.goto("about:blank")
    page.goto(page_file.as_uri() + "#view=episodes&flags=rejected")
    page.wait_for_selector("#list .row")
    pressed = page.locator(".chip[aria-pressed=true]")
    assert pressed.all_inner_texts() == ["Rejected"]


def test_filters_count_what_passes(page) -> None:
    total = NUM + 2 + 1
    assert count(page) == total
    page.click("[data-flag=rejected]")
    assert count(page) == NUM // 4 + 1
    page.click("[data-flag=failed]")
    assert count(page) == NUM // 12
    page.click("[data-flag=rejected]")
    assert count(page) == NUM // 3
    page.click("[data-flag=failed]")
    page.click("[data-flag=violating]")
    assert count(page) == NUM // 4 + 1
    page.click("[data-flag=violating]")
    page.select_option("[data-choice=stop]", "max_turns")
    assert count(page) == NUM // 3
    page.select_option("[data-choice=stop]", "")
    page.select_option("[data-choice=step]", "2")
    assert count(page) == NUM // 3
    page.select_option("[data-choice=step]", "")
    page.select_option("[data-choice=run]", "2")
    assert count(page) == 1
    page.select_option("[data-choice=run]", "")
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("seed 1007")
    assert count(page) == 1
    page.select_option("#sort", "longest")
    page.fill("#search", "")
    assert page.locator("#list .row").first.inner_text().find("3,998 tokens") < 0
    assert f"row {NUM}" in page.locator("#list .row").first.inner_text()


def test_only_rows_in_sight_are_elements(page) -> None:
    assert page.locator("#list .row").count() < 40
    page.evaluate("document.getElementById('list').scrollTop = 1e9")
    page.wait_for_function(f"() => document.getElementById('row-{NUM + 2}')")


def test_the_keyboard_goes_through_episodes_turns_and_help(page) -> None:
    page.keyboard.press("j")
    wait_for(page, "row 0")
    page.keyboard.press("j")
    wait_for(page, "row 1")
    page.keyboard.press("ArrowDown")
    wait_for(page, "row 2")
    page.keyboard.press("k")
    wait_for(page, "row 1")
    page.keyboard.press("End")
    page.wait_for_function("() => document.querySelector('.episode-head h2').textContent.includes('task 0')")
    assert "surprise" in page.inner_text(".legend")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    wait_for(page, f"row {NUM}")
    page.keyboard.press("t")
    page.wait_for_timeout(300)
    tops = page.evaluate(
        "() => Array.from(document.querySelectorAll('.turn.answer'), e => e.getBoundingClientRect().top)"
    )
    assert min(abs(top) for top in tops) < 420
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()
    page.keyboard.press("3")
    assert "lr" in page.inner_text("#view-configuration")


def test_what_a_model_wrote_is_inert(page) -> None:
    page.fill("#search", "666")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    wait_for(page, f"row {NUM + 1}")
    assert "</script><img src=x onerror=" in page.inner_text(".text.model")
    # the pane's way to its top ends first: scrolling puts a tooltip away
    page.wait_for_timeout(300)
    page.hover("[data-t='0']")
    assert "</script><img" in page.inner_text("#tip")
    assert page.locator("img").count() == 0
    assert page.title() != "owned"


def test_the_text_of_an_episode_is_all_there_and_context_has_no_colour(page) -> None:
    page.fill("#search", "1001")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    wait_for(page, "row 1")
    assert page.locator(".text.model").all_inner_texts() == ["alpha beta gamma<|im_end|>"] * 2
    # the last line's end of a block takes no line of its own
    assert page.locator(".observation .text").inner_text().rstrip("\n") == " delta"
    assert page.locator(".context .t").count() == 0
    # 0.05^2 / 2 = 1.25e-3 and 0.2^2 / 2 = 0.02
    classes = page.eval_on_selector_all(".t", "list => list.slice(0, 4).map(e => e.className.split(' ')[1])")
    assert classes == ["d0", "d1", "d3", "d4"]


def test_a_reload_comes_back_to_the_same_place(page) -> None:
    page.click("[data-flag=rejected]")
    page.keyboard.press("j")
    wait_for(page, "row 0")
    page.keyboard.press("n")
    page.wait_for_function("() => location.hash.includes('token=3')")
    page.reload()
    wait_for(page, "row 0")
    assert count(page) == NUM // 4 + 1
    page.wait_for_function("() => document.activeElement.dataset.t === '3'")


def test_curves_have_data_and_their_tooltip_values(page) -> None:
    page.keyboard.press("1")
    assert page.locator("#chart-validation polygon.band").count() == 4
    chart = page.locator("#chart-token_kl svg[role=img]")
    chart.focus()
    page.keyboard.press("ArrowRight")
    assert "0.1" in page.inner_text("#tip")
    assert page.locator("#chart-ratio").count() == 0
    page.click("#chart-token_kl .small")
    assert page.locator("#chart-token_kl polyline").count() == 2
    page.click("#chart-token_kl .series button >> nth=0")
    assert page.locator("#chart-token_kl polyline").count() == 1
    page.keyboard.press("2")
    assert page.locator("#chart-evaluation").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_have_pictures_and_readable_text(chrome, page_file, tmp_path, scheme: str) -> None:
    with opened(chrome, page_file, scheme) as found:
        page = found.page
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, background[4:-1].split(","))) < 380) == (scheme == "dark")
        page.screenshot(path=str(tmp_path / "curves.png"))
        page.keyboard.press("4")
        page.keyboard.press("j")
        wait_for(page, "row 0")
        page.keyboard.press("n")
        page.wait_for_timeout(200)
        page.screenshot(path=str(tmp_path / "episode.png"))
        for name in ("curves", "episode"):
            assert (tmp_path / f"{name}.png").stat().st_size > 30_000
        page.click("#theme")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background
        assert found.errors == []
        assert found.requests == []


def test_a_narrow_window_has_no_sideways_scrolling(chrome, page_file) -> None:
    with opened(chrome, page_file, width=400) as found:
        for key in "1234":
            found.page.keyboard.press(key)
            assert found.page.evaluate("document.documentElement.scrollWidth") <= 400
        assert found.errors == []


def test_a_watched_page_reloads_itself_and_stays_where_the_reader_is(chrome, tmp_path) -> None:
    folder = write_run(tmp_path / "run", rows()[:8], finished=False)
    path = build_report([folder], tmp_path / "page.html", reload_seconds=2).path
    with opened(chrome, path) as found:
        page = found.page
        page.keyboard.press("3")
        page.keyboard.press("j")
        wait_for(page, "row 0")
        page.keyboard.press("n")
        page.wait_for_function("() => location.hash.includes('token=3')")
        page.wait_for_timeout(300)
        page.evaluate("document.body.dataset.old = 'yes'")
        page.wait_for_function("() => !document.body.dataset.old")
        page.wait_for_function("() => document.activeElement.dataset.t === '3'")
        assert found.errors == []
        assert found.requests == []


def test_a_run_without_rollouts_says_how_to_get_them(chrome, tmp_path) -> None:
    path = build_report([write_run(tmp_path / "run")], tmp_path / "page.html").path
    with opened(chrome, path) as found:
        found.page.keyboard.press("3")
        assert "policy_loss.dump.every=10" in found.page.inner_text("#view-episodes")
        found.page.keyboard.press("j")
        assert found.errors == []
