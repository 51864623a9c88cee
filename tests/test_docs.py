import importlib
import re
from pathlib import Path

import pytest
import yaml

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


def test_checkpoints_that_pages_and_helps_name_are_kept_by_a_default_run():
    import yaml

    conf = DOCS.parent / "trm_agent" / "conf"
    trainer = yaml.safe_load((conf / "experiment" / "math_nano.yaml").read_text())["trainer"]
    newest = yaml.safe_load((conf / "train.yaml").read_text())["trainer"]["max_actor_ckpt_to_keep"]
    # 10, 20, 30, 40, of which the last two stay
    kept = range(trainer["save_freq"], trainer["total_training_steps"] + 1, trainer["save_freq"])[-newest:]
    files = [DOCS.parent / "README.md", *DOCS.rglob("*.md"), *(DOCS.parent / "trm_agent" / "commands").glob("*.py")]
    named = {
        (file.name, int(step))
        for file in files
        for step in re.findall(r"math_nano-seed0-\d+@(\d+)", file.read_text(encoding="utf-8"))
    }
    assert len(named) >= 4
    assert [(name, step) for name, step in sorted(named) if step not in kept] == []


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md", "docs/clusters.md"])
def test_the_first_command_of_a_page_comes_after_the_activation(page):
    text = (DOCS.parent / page).read_text(encoding="utf-8")
    listings = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    first = re.search(r"^(?:\w+=\S+ )*(?:trm|python|tensorboard) ", listings, re.MULTILINE)
    assert first is not None
    assert 0 <= listings.find("source .venv/bin/activate") < first.start()


def test_every_option_of_an_environment_is_on_its_page():
    from trm_envs.catalog import entries

    pages = {page.stem.replace("_", ""): page.read_text(encoding="utf-8") for page in DOCS.glob("environments/*.md")}
    lacking = {}
    for entry in entries():
        if entry.id == "trm/Gym-v0":  # another page, with a test of its own
            continue
        name = entry.id.partition("/")[2].partition("-")[0].lower()
        lacking[entry.id] = [option for option in entry.options if not re.search(rf"\b{option}\b", pages[name])]
    assert {env_id: options for env_id, options in lacking.items() if options} == {}


def test_the_variables_for_verls_own_command_are_those_that_a_run_sets() -> None:
    page = (DOCS / "own_verl_script.md").read_text(encoding="utf-8")
    exported = dict(
        word.split("=") for line in re.findall(r"^export (.+)$", page, re.MULTILINE) for word in line.split()
    )
    conf = yaml.safe_load((DOCS.parent / "trm_agent" / "conf" / "hardware" / "cpu.yaml").read_text(encoding="utf-8"))
    # verl's own command does not compute its cache, as a run does
    assert exported == {**conf["hardware"]["env_vars"], "VLLM_CPU_KVCACHE_SPACE": "1"}
