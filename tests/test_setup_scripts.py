"""The scripts beside Python: which environment they take, and what they say of one that is no good."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
GOOD = "Python 3.11.9"


def fake_python(path: Path, version: str, *, has_pip: bool = True, makes_environments: bool = True) -> None:
    """Write a program that answers as a Python of this version, and notes in `installed` what it is to install."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number = ".".join(version.split()[1].split(".")[:2])
    made = f"mkdir -p .venv/bin && cp $0 .venv/bin/python; exit {int(not makes_environments)}"
    # after `-m pip ... install`: its arguments, and the lines of the file that is given with -r
    installs = '{ echo "$*"; while [ $# -gt 0 ]; do [ "$1" != -r ] || cat "$2"; shift; done; } >>installed'
    path.write_text(
        f'#!/bin/bash\ncase "$*" in\n-V) echo {version};;\n"-c import pip") exit {int(not has_pip)};;\n'
        f'"-c import sysconfig"*) echo {path.parent};;\n"-c import sys;"*) shift 2; [[ " $* " = *" {number} "* ]];;\n'
        f'"-m venv"*) {made};;\n*) {installs};;\nesac\n'
    )
    path.chmod(0o755)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with nothing but the tools that the scripts call, and a path that leads nowhere else."""
    (tmp_path / "bin").mkdir()
    for tool in ("mkdir", "cp", "rm"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or tool)
    return tmp_path


def call(place: Path, function: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", "-c", f"set -euo pipefail; source {SCRIPTS}/python.sh; {function}"],
        cwd=place,
        env={"PATH": str(place / "bin"), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_python_that_does_not_suit_makes_no_environment(place):
    fake_python(place / "bin/python3", "Python 3.13.0")
    done = call(place, "make_environment")
    assert done.returncode == 2
    assert "Python 3.10 to 3.12 is needed, and python3 is Python 3.13.0" in done.stderr
    assert not (place / ".venv").exists()


def test_another_python_on_the_path_is_taken(place):
    fake_python(place / "bin/python3", "Python 3.13.0")
    fake_python(place / "bin/python3.11", GOOD)
    done = call(place, "make_environment")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("bin/python3.11")
    assert (place / ".venv/bin/python").exists()
    assert call(place, "make_environment").stdout == ""


@pytest.mark.parametrize(
    ("version", "has_pip", "told"),
    [
        ("Python 3.13.0", True, "holds Python 3.13.0"),
        ("Python 3.9.1", True, "holds Python 3.9.1"),
        (GOOD, False, f"holds {GOOD} without pip"),
        (None, True, "holds no Python that starts"),
    ],
)
def test_an_environment_that_is_no_good_is_told_with_the_command_that_makes_it_anew(place, version, has_pip, told):
    fake_python(place / "bin/python3", GOOD)
    if version is None:
        (place / ".venv/bin").mkdir(parents=True)
        (place / ".venv/bin/python").symlink_to("/no/such/python")
    else:
        fake_python(place / ".venv/bin/python", version, has_pip=has_pip)
    (place / ".venv/mine").write_text("work")
    done = call(place, "make_environment")
    assert done.returncode == 2
    assert told in done.stderr
    assert f"rm -rf {place}/.venv && bash scripts/setup.sh" in done.stderr
    assert (place / ".venv/mine").exists()


def test_an_environment_that_could_not_be_made_is_not_left_behind(place):
    fake_python(place / "bin/python3", GOOD, makes_environments=False)
    done = call(place, "make_environment")
    assert done.returncode == 2
    assert "sudo apt-get install python3-venv" in done.stderr
    assert not (place / ".venv").exists()


def test_the_active_environment_is_checked_too(place):
    fake_python(place / "mine/bin/python", GOOD, has_pip=False)
    done = call(place, "check_active", VIRTUAL_ENV=f"{place}/mine")
    assert done.returncode == 2
    assert "-m ensurepip" in done.stderr
    fake_python(place / "mine/bin/python", "Python 3.13.0")
    assert "Python 3.13.0; leave it with: deactivate" in call(place, "check_active", VIRTUAL_ENV=f"{place}/mine").stderr


def test_how_to_activate_is_told_unless_an_environment_is_active(place):
    assert f"source {place}/.venv/bin/activate" in call(place, "say_how_to_activate").stdout
    assert call(place, "say_how_to_activate", VIRTUAL_ENV="/x").stdout == ""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one finished run, whose `trm` prints its arguments, and whose installation is done."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPTS / "eval.sh", tmp_path / "scripts")
    (tmp_path / "scripts/setup.sh").write_text("")
    (tmp_path / "runs/one/checkpoints").mkdir(parents=True)
    (tmp_path / "runs/one/summary.json").write_text("{}")
    (tmp_path / "runs/one/config.yaml").write_text("env:\n  id: trm/ChainMath-v0\n")
    (tmp_path / "env/bin").mkdir(parents=True)
    (tmp_path / "env/bin/trm").write_text('#!/bin/bash\necho "$@"\n')
    (tmp_path / "env/bin/trm").chmod(0o755)
    # a link would start without the packages of this environment
    (tmp_path / "env/bin/python").write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    (tmp_path / "env/bin/python").chmod(0o755)
    return tmp_path


DEFAULTS = "before=start:runs/one after=runs/one"


@pytest.mark.parametrize(
    ("given", "played"),
    [
        ("", f"{DEFAULTS} --suite nano_long"),
        ("--limit 3", f"{DEFAULTS} --suite nano_long --limit 3"),
        ("--env chain_math", f"{DEFAULTS} --env chain_math"),
        ("--validation", f"{DEFAULTS} --validation"),
        ("--limit 3 runs/mine", "--limit 3 runs/mine"),
        ("--help", "--help"),
        ("--limit three", "--limit three"),
    ],
)
def test_options_alone_leave_the_evaluations_defaults(repository, given, played):
    environment = {**os.environ, "VIRTUAL_ENV": str(repository / "env")}
    done = subprocess.run(
        ["bash", "scripts/eval.sh", *given.split()],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == f"eval {played}", done.stderr


@pytest.mark.parametrize(("given", "played"), [("", " --validation"), ("--suite nano_long", " --suite nano_long")])
def test_a_run_of_another_environment_is_evaluated_on_its_own_validation(repository, given, played):
    (repository / "runs/one/config.yaml").write_text("env:\n  id: mine/ShopSql-v0\n  kwargs: {}\n")
    environment = {**os.environ, "VIRTUAL_ENV": str(repository / "env")}
    command = ["bash", "scripts/eval.sh", *given.split()]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == f"eval {DEFAULTS}{played}", done.stderr
    assert ("tasks of its own validation" in done.stderr) == (not given)


def test_the_evaluation_says_where_it_looks_when_called_from_another_folder(repository):
    environment = {**os.environ, "VIRTUAL_ENV": str(repository / "env")}
    done = subprocess.run(
        ["bash", f"{repository}/scripts/eval.sh", "runs/mine"],
        cwd=repository / "runs",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"paths are relative to {repository}" in done.stderr
