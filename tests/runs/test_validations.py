"""The record of validations: every episode that was played once, under its task."""

import json

import pytest

from trm_agent.runs.failures import ending_family, ending_label, ending_name, ending_slug
from trm_agent.runs.validations import VALIDATIONS_FILE, record_validation


def test_each_episode_stands_under_its_source_ending_and_task_and_lost_ones_nowhere(tmp_path):
    sources = ["h2", "h2", "h2", "greedy_h2"]
    record_validation(tmp_path, 0, sources, ["a", "b", None, "a"], ["solved", "cut", None, "solved"])
    record_validation(tmp_path, 5, ["h2", "h2"], ["a", "a"], ["solved", "solved"])
    rows = [json.loads(line) for line in (tmp_path / VALIDATIONS_FILE).read_text().splitlines()]
    assert rows[0] == {
        "step": 0,
        "endings": {"h2": {"solved": ["a"], "cut": ["b"]}, "greedy_h2": {"solved": ["a"]}},
    }
    assert rows[1]["endings"] == {"h2": {"solved": ["a", "a"]}}


@pytest.mark.parametrize(
    ("mistake", "slug", "family", "label"),
    [
        ("kind/a_slip", "mistake/kind/a_slip", "kind", "wrong answer: a slip"),
        ("a kind/of: two/A slip", "mistake/a_kind_of_two/a_slip", "a kind of two", "wrong answer: a slip"),
        ("a_slip", "mistake/a_slip", "", "wrong answer: a slip"),
        ("/a_slip", "mistake/a_slip", "", "wrong answer: a slip"),
    ],
)
def test_a_mistake_keeps_its_family_in_the_name_of_its_ending(mistake, slug, family, label):
    record = {"success": False, "horizon": 2, "numbers": {f"first_mistake/{mistake}": 1.0}}
    assert ending_name(record) == f"env/ending/h2/{slug}"
    assert (ending_family(slug), ending_label(slug)) == (family, label)


def test_endings_that_are_no_mistake_have_no_family():
    assert ending_slug("ran out of tokens", "kind") == "ran_out_of_tokens"
    assert ending_family("ran_out_of_tokens") == ""
    lucky = {"success": True, "horizon": 2, "malformed_turns": 1, "numbers": {"first_mistake/kind/a_slip": 1.0}}
    assert ending_name(lucky) == "env/ending_after_malformed/h2/solved_despite_a_mistake"
