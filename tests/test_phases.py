"""The phases of scripts/test.sh: together they run each test once, and what must be alone runs in one process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MARKS = ("", "slow", "alone", "slow alone", "long", "slow long")
# Writes the arguments down, and says of the quick tests that must be alone, as pytest does, that there are none.
FAKE = f"""#!{sys.executable}
import json, os, sys
with open("calls", "a") as file: file.write(json.dumps(sys.argv[3:]) + "\\n")
with open("beside", "a") as file: file.write(f"{{os.path.exists('/proc/' + (os.environ['TRM_BESIDE'] or 'none'))}}\\n")
sys.exit(5 * (sys.argv[-1] == "not slow and alone"))
"""
COLLECT = """
import json, sys
import pytest
class Seen:
    def pytest_collection_finish(self, session): phases.append([item.nodeid for item in session.items])
phases = []
for line in open("calls"):
    pytest.main([*json.loads(line), "--collect-only", "-qq", "-p", "no:cacheprovider"], plugins=[Seen()])
print("\\n" + json.dumps(phases))
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose tests have every combination of marks, by function and by file."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/test.sh", tmp_path / "scripts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "scripts/setup.sh").write_text("")
    (tmp_path / "scripts/apt.sh").write_text("apt_install() { :; }\n")
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests/conftest.py", tmp_path / "tests")
    for folder in ("core", "end_to_end"):
        (tmp_path / "tests" / folder).mkdir(parents=True)
        for by_file in (False, True):
            for marks in MARKS if by_file else ("",):
                name = f"test_{folder}_{marks.replace(' ', '_') or 'plain'}_{by_file}"
                (tmp_path / "tests" / folder / f"{name}.py").write_text(source(name, marks, by_file))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text(FAKE)
    (tmp_path / "bin/python").chmod(0o755)
    return tmp_path


def source(name: str, marks: str, by_file: bool) -> str:
    """A file's marks, or a function for each combination of them."""
    if by_file:
        marked = ", ".join(f"pytest.mark.{mark}" for mark in marks.split())
        return f"import pytest\npytestmark = [{marked}]\ndef {name}_{marks.replace(' ', '_')}(): pass\n"
    functions = [
        "".join(f"@pytest.mark.{mark}\n" for mark in each.split()) + f"def {name}_{each.replace(' ', '_')}(): pass\n"
        for each in MARKS
    ]
    return "import pytest\n" + "".join(functions)


def phases(repository: Path, *arguments: str) -> tuple[list[list[str]], list[list[str]]]:
    """What scripts/test.sh calls pytest with, and the tests of each call."""
    with script(repository, *arguments) as started:
        assert started.wait() == 0
    calls = [json.loads(line) for line in (repository / "calls").read_text().splitlines()]
    return calls, collected(repository)


def collected(repository: Path) -> list[list[str]]:
    """The tests of each call of pytest that is written down."""
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", COLLECT], cwd=repository, env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def script(repository: Path, *arguments: str, beside: str = "") -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "VIRTUAL_ENV": str(repository), "TRM_BESIDE": beside}
    return subprocess.Popen(["bash", "scripts/test.sh", *arguments], cwd=repository, env=environment)


def is_alone(test: str) -> bool:
    return test.endswith("alone")


def is_long(test: str) -> bool:
    return test.endswith("long")


@pytest.mark.slow
def test_all_phases_run_each_test_but_long_ones_once_and_those_marked_alone_on_one_process(repository: Path) -> None:
    calls, found = phases(repository)
    everything = [test for phase in found for test in phase]
    # two folders, each with a file of six functions and six files of one, of which two are long
    assert len(everything) == len(set(everything)) == 2 * 8
    assert not any(is_long(test) for test in everything)
    for call, tests in zip(calls, found, strict=True):
        assert {is_alone(test) for test in tests} == {"-n" not in call}, (call, tests)


@pytest.mark.slow
def test_the_quick_phases_together_run_each_quick_test_once(repository: Path) -> None:
    calls, found = phases(repository, "--quick")
    everything = [test for phase in found for test in phase]
    # in each folder two functions and two files are not slow; trainings are not among them unless they are alone
    assert len(everything) == len(set(everything)) == 4 + 2
    assert not any("slow" in test for test in everything)
    for call, tests in zip(calls, found, strict=True):
        assert {is_alone(test) for test in tests} == {"-n" not in call}, (call, tests)


@pytest.mark.slow
def test_the_long_ones_have_a_way_of_their_own_on_one_process(repository: Path) -> None:
    calls, found = phases(repository, "--long", "-x")
    (call,), (tests,) = calls, found
    assert len(tests) == len(set(tests)) == 2 * 4
    assert all(is_long(test) for test in tests)
    assert (call[-1], "-n" in call) == ("-x", False)


@pytest.mark.slow
@pytest.mark.parametrize("given", [(), ("-m", "not alone"), ("-m", "slow"), ("tests/core",)])
def test_pytest_leaves_the_long_ones_out_where_none_asks_for_them(given: tuple[str, ...], repository: Path) -> None:
    (repository / "calls").write_text(json.dumps(given) + "\n")
    assert not any(is_long(test) for test in collected(repository)[0])


def test_pytest_with_paths_takes_them_as_they_are(repository: Path) -> None:
    with script(repository, "tests/core", "-x") as started:
        assert started.wait() == 0
    assert json.loads((repository / "calls").read_text()) == ["tests/core", "-x"]


def test_what_must_be_alone_waits_for_what_is_beside(repository: Path) -> None:
    with subprocess.Popen(["sleep", "2"]) as beside, script(repository, "--quick", beside=str(beside.pid)) as started:
        beside.wait()
        assert started.wait() == 0
    assert len((repository / "calls").read_text().splitlines()) == 2
    assert (repository / "beside").read_text().splitlines()[1] == "False"


def test_a_failure_of_either_phase_is_the_scripts(repository: Path) -> None:
    for failing in ("-n", "tests/core"):
        (repository / "bin/python").write_text(f'#!/bin/bash\n[[ ! " $* " =~ " {failing}" ]]\n')
        with script(repository, "--quick") as started:
            assert started.wait() == 1


@pytest.mark.parametrize("mark", ["alone", "long"])
def test_the_mark_stands_where_the_script_looks_for_it(mark: str) -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in Path(ROOT, "tests").rglob("*.py")}
    named = [path for path, text in texts.items() if f"mark.{mark}" in text]
    assert named
    assert [path.name for path in named if not path.name.startswith("test_")] == []
