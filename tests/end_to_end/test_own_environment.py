"""docs/write_an_env.md, followed to the letter: a package outside of the repository, checked, played and trained."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.training import REPOSITORY, assert_verls_loss_ran, steps, train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PAGE = (REPOSITORY / "docs" / "write_an_env.md").read_text(encoding="utf-8")
ID = "mine/KeyChain-v0"
EXAMPLES = REPOSITORY / "examples"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, installed as a package into a folder of their own."""
    source, site = tmp_path_factory.mktemp("keychain"), tmp_path_factory.mktemp("site")
    for name, language in (("keychain.py", "python"), ("pyproject.toml", "toml")):
        content = re.search(f"`{re.escape(name)}`:\n\n```{language}\n(.*?)```", PAGE, re.DOTALL)
        assert content is not None, name
        (source / name).write_text(content[1], encoding="utf-8")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", str(site), str(source)], check=True, timeout=120)
    return site


def trm(package: Path, *arguments: str) -> str:
    """Run `trm` where the package is installed; return what it prints."""
    command = [sys.executable, "-m", "trm_agent.cli", *arguments]
    env = {**os.environ, "PYTHONPATH": str(package)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, cwd=package)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_smallest_environment_has_twenty_lines() -> None:
    start = PAGE.index("class KeyChain")
    body = PAGE[start : PAGE.index("\n\n\ngymnasium.register")].splitlines()
    assert len([line for line in body if line.strip()]) <= 20


def test_it_passes_the_check_and_the_solver_plays_it(package: Path) -> None:
    trm(package, "envs", "check", ID, "--module", "keychain")
    assert "look_up" in trm(package, "envs", "play", ID, "--module", "keychain", "--solver")


def test_the_example_passes_the_check() -> None:
    trm(EXAMPLES, "envs", "check", ID, "--module", "my_env")


def test_the_pages_command_trains_on_the_example_from_anywhere_with_any_loss(tmp_path: Path) -> None:
    own = ("env=custom", f"env.id={ID}", "env.module=my_env")
    assert f"PYTHONPATH=examples python -m trm_agent.train {' '.join(own)}\n" in PAGE
    quick_model = ("nano.horizon=2", "nano.target_success=0.2", "+nano.warm_start_horizons=[1,2]")
    short = ("trainer.total_training_steps=1", "trainer.test_freq=1", "policy_loss=gspo")
    train(tmp_path / "run", *own, *quick_model, *short, path=EXAMPLES)
    (row,) = steps(tmp_path / "run")
    assert (row["env/num_episodes"], row["env/infrastructure_failures"]) == (16, 0)
    assert_verls_loss_ran(row)
