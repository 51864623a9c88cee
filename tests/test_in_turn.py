"""Benchmarks of two versions of the code in turn: each version computes with its own, and a ratio is of neighbours."""

import dataclasses

import pytest

from benchmarks import in_turn as module
from benchmarks.in_turn import Version, compare, in_turn, known_fields, ratio, verdict

CALLS = """
from trm_agent import SECONDS

def timed_calls(factor):
    def noisy():
        print("a library that prints")
        return SECONDS * float(factor)
    return {"steady": lambda: SECONDS, "noisy": noisy}
"""


def tree(folder, seconds):
    (folder / "trm_agent").mkdir(parents=True)
    (folder / "trm_agent" / "__init__.py").write_text(f"SECONDS = {seconds}\n")
    (folder / "calls_of_test.py").write_text(CALLS)
    return folder


def test_each_version_computes_with_its_own_code(tmp_path):
    trees = {"now": tree(tmp_path / "now", 1.0), "before": tree(tmp_path / "before", 4.0)}
    with (
        Version(trees["now"], "calls_of_test", 3) as now,
        Version(trees["before"], "calls_of_test", 3) as before,
    ):
        assert now.names == ["steady", "noisy"]
        found = in_turn({"now": now, "before": before}, now.names, 2)
    assert found == {
        "now": {"steady": [1.0, 1.0], "noisy": [3.0, 3.0]},
        "before": {"steady": [4.0, 4.0], "noisy": [12.0, 12.0]},
    }
    assert now.process.returncode == before.process.returncode == 0


def test_versions_take_the_first_place_in_turn_and_two_calls_warm_up():
    made = []
    clock = {name: lambda _, name=name: made.append(name) or float(len(made)) for name in ("now", "before")}
    found = in_turn(clock, ["call"], 2)
    assert made == ["before", "now", "now", "before"] * 2
    assert found == {"now": {"call": [6.0, 7.0]}, "before": {"call": [5.0, 8.0]}}


def test_a_slow_moment_that_meets_both_is_in_no_ratio():
    assert ratio([1.0, 10.0, 1.0], [2.0, 20.0, 2.0]) == 0.5


def test_a_folder_without_our_code_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--before: got .*; allowed: a folder with trm_agent/ and envs/; give one"):
        Version(tmp_path, "calls_of_test")


class Fake:
    """A version with its seconds of each call."""

    def __init__(self, **seconds):
        self.seconds, self.names = seconds, list(seconds)

    def __call__(self, name):
        return self.seconds[name]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_rows_above_the_limit_and_calls_that_the_other_version_lacks_are_named(tmp_path, monkeypatch, capsys):
    versions = {module.HERE: Fake(same=0.001, slow=0.0106, new=1.0), tmp_path: Fake(same=0.001, slow=0.01, old=1.0)}
    monkeypatch.setattr(module, "Version", lambda tree, *_: versions[tree])
    compare(tmp_path, "a benchmark", repeats=3)
    head, same, slow, lacking, told = capsys.readouterr().out.splitlines()
    assert head.split() == ["median", "of", "3", "calls", "in", "turn", "ms", "before", "ratio"]
    assert same.split() == ["same", "1.00", "1.00", "1.000"]
    assert slow.split() == ["slow", "10.60", "10.00", "1.060"]
    assert lacking == f"{tmp_path} lacks: new"
    assert told == "above 1.05 times the version before: slow (1.060)"


def test_what_is_as_fast_is_not_named():
    assert verdict({"same": 1.0, "at the limit": 1.05}).endswith(": none")


def test_an_older_dataclass_gets_no_field_that_it_lacks():
    @dataclasses.dataclass
    class Old:
        kept: int = 0

    assert Old(**known_fields(Old, kept=1, new=2)) == Old(1)
