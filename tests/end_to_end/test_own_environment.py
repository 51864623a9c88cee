"""docs/write_an_env.md, followed to the letter in a new folder: its package checked, played and trained.

Each command runs in the package's folder and in its parent, where the folder hides the package that is installed from
it. It is installed in editable form, as the page says, into a folder of its own, so that ours stays as it is.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.training import REPOSITORY, assert_verls_loss_ran, environment, steps, train
from trm_envs.scaffold import write_package

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PAGE = (REPOSITORY / "docs" / "write_an_env.md").read_text(encoding="utf-8")
INSTALL = "pip install -e keychain"
TRAIN = "python -m trm_agent.train "


def commands(containing: str) -> list[str]:
    """The lines of the page's first listing of commands that has such a line."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    return next(block for block in blocks if containing in block).strip().splitlines()


class Project:
    """A folder with a small project in it, installed in editable form.

    Attributes:
        parent: the folder that holds the project's.
        path: for PYTHONPATH: Python reads there where editable projects are.
    """

    def __init__(self, parent: Path, folder: str) -> None:
        self.parent, self.path, site = parent, parent / "path", parent / "site"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*pip, "--target", str(site), "-e", folder], check=True, timeout=120, cwd=parent)
        self.path.mkdir()
        (self.path / "sitecustomize.py").write_text(f"import site; site.addsitedir({str(site)!r})\n")
        trm = self.path / "trm"
        trm.write_text(f'#!/bin/sh\nexec {sys.executable} -m trm_agent.cli "$@"\n')
        trm.chmod(0o755)

    def run(self, command: str, folder: str = ".") -> str:
        """Run a command as it stands on the page; return what it prints."""
        env = environment(self.path)
        env["PATH"] = f"{self.path}{os.pathsep}{env['PATH']}"
        done = subprocess.run(
            command, shell=True, capture_output=True, text=True, timeout=120, env=env, cwd=self.parent / folder
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def keychain(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The page's files in a new folder."""
    parent = tmp_path_factory.mktemp("own")
    (parent / "keychain").mkdir()
    for name, language in (("keychain.py", "python"), ("pyproject.toml", "toml")):
        content = re.search(f"`{re.escape(name)}`:\n\n```{language}\n(.*?)```", PAGE, re.DOTALL)
        assert content is not None, name
        (parent / "keychain" / name).write_text(content[1], encoding="utf-8")
    return Project(parent, INSTALL.rpartition(" ")[2])


def test_the_smallest_environment_has_twenty_lines() -> None:
    start = PAGE.index("class KeyChain")
    body = PAGE[start : PAGE.index("\n\n\ngymnasium.register")].splitlines()
    assert len([line for line in body if line.strip()]) <= 20


@pytest.mark.parametrize("folder", [".", "keychain"])
def test_the_pages_commands_check_and_play_it(keychain: Project, folder: str) -> None:
    first, *rest = commands(INSTALL)
    assert first == INSTALL
    assert len(rest) == 2
    told = [keychain.run(command, folder) for command in rest]
    assert "checks: none failed" in told[0]
    assert "look_up" in told[1]


def test_the_package_of_trm_envs_new_is_found_where_it_lies(tmp_path: Path) -> None:
    env_id, _ = write_package("my_env", tmp_path)
    check = f"trm envs check my_env:{env_id}"
    assert check in (tmp_path / "my_env" / "README.md").read_text()
    project = Project(tmp_path, "my_env")
    for folder in (".", "my_env"):
        assert "1 checks: none failed" in project.run(f"{check} --only fresh_process", folder)


def test_the_pages_command_trains_on_it_from_its_parent_with_any_loss(keychain: Project) -> None:
    (command,) = commands(f"{TRAIN}env=custom")
    own = command.removeprefix(TRAIN).split()
    # the same command in this repository, with the example that the page shows
    assert f"PYTHONPATH=examples {TRAIN}{' '.join(own).replace('keychain', 'my_env')}" in PAGE
    quick_model = ("nano.horizon=2", "nano.target_success=0.2", "+nano.warm_start_horizons=[1,2]")
    short = ("trainer.total_training_steps=1", "trainer.test_freq=1", "policy_loss=gspo")
    run = keychain.parent / "run"
    train(run, *own, *quick_model, *short, path=keychain.path)
    (row,) = steps(run)
    assert (row["env/num_episodes"], row["env/infrastructure_failures"]) == (16, 0)
    assert_verls_loss_ran(row)
