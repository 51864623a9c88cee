"""Light and dark, in a headless Chromium: contrast, references, groups with advantages and reasons, search, keys."""

import pytest

from tests.report.browser import NEEDS_BROWSER, count, launched, opened, wait_for
from tests.report.synthetic import END, TWO, episode_row, write_evaluation, write_run, write_tokenizer
from trm_agent.report.build import build_report

pytestmark = [pytest.mark.slow, NEEDS_BROWSER]
COUNTED = (
    "left => document.getElementById('count').textContent.startsWith(`${left} of 5 episodes`)"
    " && !document.getElementById('count').textContent.includes('so far')"
)
# the elements that an attribute names and that are not there
DANGLING = """() => ['aria-controls', 'aria-labelledby', 'aria-describedby', 'aria-activedescendant', 'href'].flatMap(
  name => Array.from(document.querySelectorAll(`[${name}]`), each => each.getAttribute(name))
    .filter(text => !text.split(' ').every(id => document.getElementById(id.replace(/^#/, '')))))"""
# [contrast, text] of every text in sight with less than 4.5, as WCAG 2 measures it
FAINT = """() => {
  const channels = text => {
    const numbers = text.match(/[\\d.]+(e-?\\d+)?/g).map(Number);
    const scale = text.startsWith('rgb') ? 255 : 1;
    return [...numbers.slice(0, 3).map(each => each / scale), numbers[3] ?? 1];
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((each, i) => each * a + below[i] * (1 - a));
  const ground = element => {
    const colour = channels(getComputedStyle(element).backgroundColor);
    if (colour[3] === 1) return colour.slice(0, 3);
    return over(colour, element.parentElement ? ground(element.parentElement) : [1, 1, 1]);
  };
  const light = rgb => rgb.map(c => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const found = new Map();
  for (const element of document.body.querySelectorAll('*:not(script)')) {
    const own = Array.from(element.childNodes).filter(node => node.nodeType === 3 && node.textContent.trim());
    if (!own.length || !element.checkVisibility()) continue;
    const style = getComputedStyle(element), below = ground(element);
    const [one, two] = [light(over(channels(element.closest('svg') ? style.fill : style.color), below)), light(below)];
    const contrast = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    if (contrast < 4.5) found.set(`${element.className} ${own[0].textContent.slice(0, 30)}`, contrast.toFixed(2));
  }
  return [...found].map(String);
}"""


@pytest.fixture(scope="module")
def chrome():
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A run with a group of three, of which one was rejected by an average, and an evaluation."""
    folder = tmp_path_factory.mktemp("groups")
    made = []
    for number, (task, success) in enumerate([("aaaa", True), ("bbbb", False), ("aaaa", False), ("aaaa", True)]):
        ratios = [1e-3, 5e-3, 0.02, 0.06, 0.2, 0.6, 2.0, 0.0] if number == 2 else [0.25] * 8
        row = episode_row(success=success, accepted=number != 2, log_ratios=ratios, seed=number, expected_answer="41")
        if number == 3:
            row = episode_row(success=success, answer=[TWO, TWO, TWO, END], log_ratios=ratios, expected_answer="42")
        made.append(row | {"task": task, "rejected_by": ["avg"] if number == 2 else []})
    run = write_run(folder / "run", made)
    write_tokenizer(run / "checkpoints" / "global_step_3" / "actor" / "huggingface")
    return build_report([run, write_evaluation(folder / "eval")], folder / "page.html").path


@pytest.fixture(params=["light", "dark"])
def found(chrome, file, request):
    with opened(chrome, file, request.param) as page:
        yield page
        assert (page.errors, page.requests) == ([], [])


def test_results_come_first_and_every_view_can_be_read(found) -> None:
    page = found.page
    assert page.locator("h2").first.inner_text() == "Results"
    assert [text.split()[0] for text in page.locator(".which").all_inner_texts()] == ["run", "eval"]
    assert "How training episodes ended" in page.inner_text("#view-curves")
    assert page.evaluate(FAINT) == []
    for name in ("evaluation", "configuration", "episodes"):
        page.click(f"#tab-{name}")
        assert page.evaluate(DANGLING) == []
        if name == "evaluation":
            assert "horizon 4, before" not in page.inner_text("#view-evaluation")
            assert "How episodes ended: eval" in page.inner_text("#view-evaluation")
        if name == "episodes":
            for _ in range(3):
                page.keyboard.press("j")
            wait_for(page, "task aaaa · 2")
        assert page.evaluate(FAINT) == []
        assert page.evaluate(DANGLING) == []


def test_a_group_has_its_advantages_and_opens_its_episodes(found) -> None:
    page = found.page
    # without a click: the view by its number, then an episode
    page.keyboard.press("4")
    page.keyboard.press("j")
    wait_for(page, "task aaaa · 1")
    assert "group of 3, mean reward 0.6667; reward (advantage) of each:" in page.inner_text(".in-group")
    members = page.locator(".in-group button")
    # advantages are the ratios: the second one's have the mean 2.886 / 8; one token of each colour
    of_each = ["1 (+0.25)", "0 (+0.361)", "1 (+0.25)"]
    assert members.all_inner_texts() == of_each
    assert page.locator(".in-group [aria-current=true]").inner_text() == of_each[0]
    assert page.inner_text(".expected") == "expected answer: 41"
    members.nth(2).click()
    wait_for(page, "task aaaa · 3")
    assert page.inner_text(".expected") == "expected answer: 42"
    assert "task aaaa · 3" in page.locator("#list [aria-selected=true]").inner_text()
    page.select_option("#sort", "group")
    page.wait_for_function("() => document.querySelectorAll('.row.begins').length === 2")
    names = page.locator(".row-id").all_inner_texts()
    parts = ("aaaa · 1", "aaaa · 2", "aaaa · 3", "bbbb · 1")
    assert [name.removeprefix("run · ") for name in names][:4] == [f"step 1 · h2 · task {part}" for part in parts]
    assert page.locator(".row.begins .row-id").first.inner_text().endswith("bbbb · 1")
    page.keyboard.press("Escape")
    page.keyboard.press("k")
    wait_for(page, "task aaaa · 2")
    assert "rejected by avg" in page.inner_text(".badges")
    assert "wrong after a malformed call" in page.inner_text(".badges")
    # the marked token lies below the head and its numbers do not cover it, in a low window too
    page.set_viewport_size({"width": 1180, "height": 640})
    page.keyboard.press("n")
    page.wait_for_selector(".t.violates:focus")
    page.wait_for_timeout(100)
    head, token, tip = (page.locator(name).bounding_box() for name in (".episode-head", ".t:focus", "#tip"))
    assert token["y"] >= head["y"] + head["height"]
    assert tip["y"] >= token["y"] + token["height"] or tip["y"] + tip["height"] <= token["y"] or tip["y"] == 8
    page.set_viewport_size({"width": 1400, "height": 900})
    # one that the filter hides opens all the same, and the list has no chosen row then
    page.click("[data-flag=rejected]")
    assert count(page) == 1
    page.locator(".in-group button").first.click()
    wait_for(page, "task aaaa · 1")
    assert page.locator("#list [aria-selected=true]").count() == 0


def test_the_search_finds_texts_answers_and_reasons(found) -> None:
    page = found.page
    page.keyboard.press("4")
    page.keyboard.press("/")
    for words, left in (("222", 1), ("alpha beta", 3), ("42", 1), ("avg", 1), ("nowhere", 0), ("aaaa", 3), ("", 5)):
        page.fill("#search", words)
        page.wait_for_function(COUNTED, arg=left)
        assert page.locator("#list .row").count() == left
