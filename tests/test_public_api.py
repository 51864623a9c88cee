"""docs/public_api.md lists what is public: every name on it is there, and no index of names holds one that it lacks."""

import argparse
import importlib
import inspect
import re
from pathlib import Path

import pytest

from trm_agent.cli import COMMANDS, _parser
from trm_agent.evaluate import plan
from trm_agent.evaluate.results import result_row
from trm_agent.trust_region import dump

PAGE = (Path(__file__).parents[1] / "docs" / "public_api.md").read_text(encoding="utf-8")
INDICES = ("trm_envs", "trm_envs.sandbox", "trm_agent.core", "trm_agent.episode")


def words(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def listed() -> dict[str, list[str]]:
    """Names by module: a heading names modules, the last paragraph below it their names, groups parted by `;`."""
    part = PAGE.partition("## Names to import")[2].partition("\n## ")[0]
    found = {}
    for section in part.split("\n### ")[1:]:
        heading, _, body = section.partition("\n")
        modules, groups = words(heading), body.strip().split("\n\n")[-1].split(";")
        assert len(modules) == len(groups), heading
        found.update(zip(modules, map(words, groups), strict=True))
    return found


def section(title: str) -> str:
    found = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    assert found, title
    return found


@pytest.mark.parametrize("module", listed())
def test_every_listed_name_can_be_imported(module):
    names = listed()[module]
    assert names
    there = importlib.import_module(module)
    assert [name for name in names if not hasattr(there, name)] == []


@pytest.mark.parametrize("module", INDICES)
def test_no_index_holds_a_name_that_the_page_lacks(module):
    names = listed()[module]
    index = importlib.import_module(module).__all__
    assert sorted(set(index) ^ set(names)) == []
    assert len(names) == len(set(names))


def leaves(parser: argparse.ArgumentParser) -> set[str]:
    """The commands of a parser that have no commands below them."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {parser.prog} if not below else {leaf for child in below[0].choices.values() for leaf in leaves(child)}


def test_every_command_is_there_with_its_exit_status():
    rows = [line.split("|") for line in section("Commands").splitlines() if line.startswith("| `")]
    named = [command for row in rows for command in words(row[1])]
    # a parser knows the arguments of the command that it was asked for
    there = {leaf for name in COMMANDS for leaf in leaves(_parser([name])) if leaf.split()[1] == name}
    assert sorted(named) == sorted({"python -m trm_agent.train", *there})
    assert all(row[2].strip() for row in rows)


def test_the_formats_are_those_of_the_code():
    run, evaluation = section("Files of a run"), section("Files of an evaluation")
    assert f'`format` "{dump.FORMAT}", `version` {dump.VERSION}' in run
    assert f'`format` "{plan.FORMAT}", `version` {plan.VERSION}' in evaluation
    columns = words(run.partition("Columns:")[2].partition("\n\n")[0])
    assert columns == dump.SCHEMA.names
    # the keys that stand at the depth of the row's own
    fields = re.findall(r'^        "(\w+)":', inspect.getsource(result_row), re.MULTILINE)
    assert words(evaluation.partition("Fields of a result:")[2]) == fields
