"""The arrows of the architecture: what each room may import, seen in a fresh interpreter."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
# brought by extras: what an author of environments does not install
OPTIONAL = (
    "torch",
    "verl",
    "vllm",
    "ray",
    "transformers",
    "hydra",
    "omegaconf",
    "yaml",
    "pyarrow",
    "matplotlib",
    "tqdm",
)
NOT_OF_A_REPORT = ("torch", "verl", "vllm", "ray", "hydra", "omegaconf", "matplotlib", "tqdm")
FORBIDDEN = {
    "trm_envs": (*OPTIONAL, "trm_agent"),
    "trm_agent.core": ("verl", "vllm", "ray", "transformers", "gymnasium", "trm_envs", "trm_agent.episode"),
    "trm_agent.episode": ("torch", "verl", "vllm", "ray", "transformers", "trm_agent.core"),
    "trm_agent.trust_region.settings": ("torch", "verl", "gymnasium", "trm_envs"),
    "trm_agent.fork_server.client": ("torch", "verl", "ray", "numpy", "gymnasium"),
    "trm_agent.runs.compose": OPTIONAL,
    "trm_agent.train": OPTIONAL,
    "trm_agent.doctor": (*OPTIONAL, "gymnasium", "numpy"),
    # with what a report of an evaluation imports when it runs
    "trm_agent.report": NOT_OF_A_REPORT,
    "trm_agent.evaluate.repeats": NOT_OF_A_REPORT,
    "trm_agent.evaluate.summary": NOT_OF_A_REPORT,
    # a subcommand imports what is heavy when it runs
    "trm_agent.cli": (*OPTIONAL, "gymnasium", "numpy", "trm_agent.core"),
}

# the module and, of a package, every module in it
LOAD = """
import importlib, pkgutil, sys
room = importlib.import_module(sys.argv[1])
for child in pkgutil.iter_modules(getattr(room, "__path__", ())):
    importlib.import_module(f"{sys.argv[1]}.{child.name}")
print("\\n".join(sys.modules))
"""


@pytest.mark.parametrize("module", FORBIDDEN)
def test_a_room_imports_nothing_above_it(module: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOAD, module], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    assert module in loaded
    assert sorted(loaded & set(FORBIDDEN[module])) == []


def test_only_the_plugin_names_verl_and_only_it_and_the_engine_of_evaluation_name_vllm() -> None:
    offenders = []
    for path in (REPOSITORY / "trm_agent").rglob("*.py"):
        room = path.relative_to(REPOSITORY / "trm_agent").parts[0]
        for line in path.read_text(encoding="utf-8").splitlines():
            words = line.split()
            if (
                words[:1] in (["import"], ["from"])
                and words[1].split(".")[0] in ("verl", "vllm")
                and room != "verl_plugin"
                and not (path.name == "vllm_engine.py" and words[1].split(".")[0] == "vllm")
            ):
                offenders.append(f"{path.name}: {line.strip()}")
    assert offenders == []


def test_nothing_imports_the_command_line() -> None:
    command_line = re.compile(
        r"^\s*(?:from|import)\s+trm_(?:agent|envs)(?:\s+import\s.*|\.)\b(cli|commands)\b", re.MULTILINE
    )
    importers = {}
    for folder in ("trm_agent", "envs"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            found = set(command_line.findall(path.read_text(encoding="utf-8")))
            # a subcommand may have its arguments in a file beside it
            if found := found - ({"commands"} if path.parent.name == "commands" else set()):
                importers[path.relative_to(REPOSITORY).as_posix()] = found
    # the command line imports a subcommand by its name in a table, and no subcommand imports the command line
    assert importers == {}


def test_no_file_holds_two_concepts() -> None:
    sources = [
        path for folder in ("trm_agent", "envs", "tests", "benchmarks") for path in (REPOSITORY / folder).rglob("*.py")
    ]
    long = {path.name: lines for path in sources if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 300}
    assert len(sources) > 50
    assert long == {}
