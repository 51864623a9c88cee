import importlib
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
EXAMPLES = DOCS.parent / "examples"


def test_every_function_that_the_math_names_exists():
    names = sorted(set(re.findall(r"`(trm_agent(?:\.\w+)+)`", (DOCS / "math.md").read_text())))
    functions = [name for name in names if name != "trm_agent.core"]
    assert len(functions) > 25
    for name in functions:
        module, _, attribute = name.rpartition(".")
        assert callable(getattr(importlib.import_module(module), attribute)), name


@pytest.mark.parametrize(("page", "example"), [("write_an_env", "my_env"), ("own_verl_script", "loss_only")])
def test_a_pages_listing_is_the_file_that_people_copy(page, example):
    (listing,) = re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL)
    assert listing == (EXAMPLES / f"{example}.py").read_text(encoding="utf-8")


def test_every_example_is_in_the_list_of_examples():
    listed = re.findall(r"^- `(\w+\.py)`", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in EXAMPLES.glob("*.py"))


def test_the_game_of_the_page_on_own_environments_keeps_the_contract(tmp_path, monkeypatch):
    import gymnasium

    from trm_envs.checker import check

    (listing,) = re.findall(
        r"```python\n(.*?)```", (DOCS / "own_environment.md").read_text(encoding="utf-8"), re.DOTALL
    )
    (tmp_path / "my_games.py").write_text(listing)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        found = check("my_games:mine/Blackjack-v0", only=["seeds_differ", "junk", "json", "rewards", "malformed"])
        assert {finding.outcome for finding in found} == {"ok"}, found
    finally:
        gymnasium.registry.pop("mine/Blackjack-v0", None)


def test_the_page_on_own_environments_names_every_option_of_a_game():
    from dataclasses import fields

    from trm_envs.gym_tool import GymOptions
    from trm_envs.gym_tool.options import PER_EPISODE

    page = (DOCS / "own_environment.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert named == [field.name for field in fields(GymOptions) if field.name not in PER_EPISODE]


def headings(page: Path) -> set[str]:
    """Anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_every_link_of_a_page_leads_to_a_file_and_a_heading():
    pages = [*DOCS.rglob("*.md"), DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md", EXAMPLES / "README.md"]
    lost = []
    for page in pages:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            is_there = target.exists() and (not anchor or target.suffix != ".md" or anchor in headings(target))
            if not link.startswith("https://") and not is_there:
                lost.append(f"{page.relative_to(DOCS.parent)}: {link}")
    assert lost == []


def test_every_page_is_reached_from_the_readme():
    reached, front = set(), [DOCS.parent / "README.md"]
    while front:
        page = front.pop()
        for name in re.findall(r"\]\(([^)\s#]+\.md)", page.read_text(encoding="utf-8")):
            target = (page.parent / name).resolve()
            if target not in reached and target.exists():
                reached.add(target)
                front.append(target)
    assert {page.resolve() for page in DOCS.rglob("*.md") if "decisions" not in page.parts} - reached == set()
