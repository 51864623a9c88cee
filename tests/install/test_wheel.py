"""The wheel beside its core dependencies alone, and beside verl from outside the repository."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.install.wheel import REPOSITORY, Installed, data_files, installed
from trm_agent import __version__, extras

HEAVY = {"torch", "verl", "ray", "vllm", "transformers", "hydra-core", "pyarrow", "matplotlib"}
LIST = "import importlib.metadata as m; print(*sorted(d.metadata['Name'].lower() for d in m.distributions()))"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    base = tmp_path_factory.getbasetemp()
    # one for all workers of pytest-xdist, whose folders lie side by side
    return installed((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "wheel")


def test_it_holds_every_file_of_data_once(wheel: Installed) -> None:
    with zipfile.ZipFile(wheel.wheel) as archive:
        packed = set(archive.namelist())
    wanted = data_files()
    assert {"trm_agent/conf/train.yaml", "trm_agent/verl_plugin/rollout/agent_loop.yaml", "trm_envs/py.typed"} <= wanted
    assert wanted - packed == set()
    # the link conf/ does not bring a second copy, and nothing beside the two packages is installed
    assert {name.split("/")[0] for name in packed if ".dist-info/" not in name} == {
        "trm_agent",
        "trm_envs",
        "trm_fields",
    }


def test_its_core_dependencies_are_light(wheel: Installed, tmp_path: Path) -> None:
    names = set(wheel.run("-c", LIST, cwd=tmp_path).stdout.split())
    assert {"trm-agent", "gymnasium", "numpy"} <= names
    assert names & HEAVY == set()
    assert len(names) < 30


def test_beside_them_it_lists_checks_and_starts_environments(wheel: Installed, tmp_path: Path) -> None:
    command = str(wheel.python.parent / "trm")

    def trm(*arguments: str, cwd: Path = tmp_path) -> str:
        done = wheel.run(command, *arguments, cwd=cwd)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert trm("--version") == f"trm-agent {__version__}\n"
    assert "envs" in trm("--help")
    found = json.loads(trm("envs", "check", "trm/ChainMath-v0", "--fuzz", "50", "--json"))
    assert {finding["outcome"] for finding in found} <= {"ok", "skipped"}
    assert "trm/PythonMath-v0" in trm("envs", "list")
    trm("envs", "new", "my_env")
    assert "none failed" in trm("envs", "check", "my_env:my_env/MyEnv-v0", "--fuzz", "20", cwd=tmp_path / "my_env")
    (tmp_path / "program.py").write_text("print(6 * 7)")
    assert trm("sandbox", "run", "program.py", "--sandbox", "unsafe") == "42\n"


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("-m", "trm_agent.cli", "bounds", "--horizon", "4", "--delta", "1", "--kl-seq", "1"), "analyze"),
        (("-m", "trm_agent.cli", "analyze", "x"), "analyze"),
        (("-m", "trm_agent.cli", "report", "x"), "report"),
        (("-m", "trm_agent.cli", "eval", "x", "--env", "chain_math"), "eval"),
        (("-m", "trm_agent.train", "seed=1"), "train"),
    ],
)
def test_a_command_whose_extra_is_missing_says_which(
    arguments: tuple[str, ...], extra: str, wheel: Installed, tmp_path: Path
) -> None:
    done = wheel.run(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith(f"{extras.install(extra)}\n")
    assert done.stderr.count("\n") == 1


def test_help_needs_no_extra(wheel: Installed, tmp_path: Path) -> None:
    for arguments in (("-m", "trm_agent.cli", "eval", "--help"), ("-m", "trm_agent.train", "--help")):
        done = wheel.run(*arguments, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    assert "math_nano_mismatch" in done.stdout


def test_beside_verl_it_composes_what_the_repository_does_from_any_folder(wheel: Installed, tmp_path: Path) -> None:
    def composed(path: str, cwd: Path) -> str:
        command = [sys.executable, "-m", "trm_agent.train", "--cfg", "experiment=math_nano"]
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "import trm_agent.runs.compose as c, trm_envs; print(c.CONF, trm_envs.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(wheel.unpacked)}
    told = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert all(path.startswith(str(wheel.unpacked)) for path in told.stdout.split())
    ours = composed(str(wheel.unpacked), tmp_path)
    assert "experiment_name: math_nano" in ours
    assert ours == composed(f"{REPOSITORY}:{REPOSITORY / 'envs'}", REPOSITORY)
