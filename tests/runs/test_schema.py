"""The schema of our groups: what it refuses, and that conf/ and docs/configuration.md agree with it."""

from dataclasses import fields
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.structure_script import load
from trm_agent.episode.limits import Limits
from trm_agent.models.nano_spec import NanoSpec
from trm_agent.runs.schema import FIELDS, GROUPS, check_groups, leaves
from trm_agent.trust_region.setting import settings_of
from trm_agent.trust_region.settings import DumpConfig, TrmConfig

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/configuration.md"
printer = load(ROOT / "scripts" / "configuration_page.py")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"run": {"max_infrastructure_share": "much"}}, ("run.max_infrastructure_share", "'much'", "from 0 to 1")),
        ({"run": {"weight_sync_timeout_s": 0}}, ("run.weight_sync_timeout_s", "got 0", "above 0")),
        ({"run": {"rooot": "runs"}}, ("run.rooot", "no such field", "did you mean 'run.root'")),
        ({"hardware": {"fork_server": "yes"}}, ("hardware.fork_server", "true or false")),
        ({"env": {"train": {"horizons": [2, 0]}}}, ("env.train.horizons[1]", "got 0", "of 1 or more and whole")),
        ({"env": {"train": {"horizons": 2}}}, ("env.train.horizons", "a list")),
        ({"env": {"limits": {"max_turns": 2.5}}}, ("env.limits.max_turns", "2.5")),
        ({"env": {"kwargs": 3}}, ("env.kwargs", "names and values")),
    ],
)
def test_a_bad_value_is_refused_with_its_field_the_value_and_what_is_allowed(values, words):
    with pytest.raises(ValueError, match=words[0].partition("[")[0]) as refused:
        check_groups(values)
    for word in words:
        assert word in str(refused.value)


def test_an_environments_own_options_are_free():
    check_groups({"env": {"kwargs": {"depth": {"any": [1, None]}}}})


def test_every_field_of_conf_is_declared():
    found = set()
    for path in sorted((ROOT / "trm_agent/conf").rglob("*.yaml")):
        tree = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        for group in GROUPS:
            found |= {name for name, _ in leaves(tree.get(group) or {}, group)}
    assert sorted(found - set(FIELDS)) == []
    assert len(found) > 30


def test_every_limit_is_declared():
    assert {f"env.limits.{item.name}" for item in fields(Limits)} == {n for n in FIELDS if n.startswith("env.limits.")}


def test_every_field_has_a_meaning():
    assert all(item.doc for item in FIELDS.values())
    assert all(item.doc for item in settings_of(TrmConfig))
    for cls in (DumpConfig, NanoSpec):
        assert [item.name for item in fields(cls) if not printer.field_docs(cls).get(item.name)] == []


def test_the_page_is_made_of_the_fields():
    page = PAGE.read_text(encoding="utf-8")
    assert printer.documented(page) == page, f"stale; run {printer.BEGIN.split('`')[1]}"
