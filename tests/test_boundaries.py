"""The arrows of the architecture: what each room may import, seen in a fresh interpreter."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
FORBIDDEN = {
    "trm_envs": ("torch", "verl", "vllm", "ray", "transformers", "trm_agent"),
    "trm_agent.core": ("verl", "vllm", "ray", "transformers", "gymnasium", "trm_envs", "trm_agent.episode"),
    "trm_agent.episode": ("torch", "verl", "vllm", "ray", "transformers", "trm_agent.core"),
    "trm_agent.config": ("torch", "verl", "gymnasium", "trm_envs"),
    "trm_agent.fork_server.client": ("torch", "verl", "ray", "numpy", "gymnasium"),
    "trm_agent.compose": ("torch", "verl", "ray"),
    "trm_agent.train": ("torch", "verl", "vllm", "ray", "transformers"),
}


@pytest.mark.parametrize("module", FORBIDDEN)
def test_a_room_imports_nothing_above_it(module: str) -> None:
    code = f"import sys, {module}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    assert module in loaded
    assert sorted(loaded & set(FORBIDDEN[module])) == []


def test_only_the_plugin_names_verl_and_vllm() -> None:
    offenders = []
    for path in (REPOSITORY / "trm_agent").rglob("*.py"):
        room = path.relative_to(REPOSITORY / "trm_agent").parts[0]
        for line in path.read_text(encoding="utf-8").splitlines():
            words = line.split()
            if (
                words[:1] in (["import"], ["from"])
                and words[1].split(".")[0] in ("verl", "vllm")
                and room != "verl_plugin"
            ):
                offenders.append(f"{path.name}: {line.strip()}")
    assert offenders == []


def test_no_file_holds_two_concepts() -> None:
    sources = [
        path for folder in ("trm_agent", "envs", "tests", "benchmarks") for path in (REPOSITORY / folder).rglob("*.py")
    ]
    long = {path.name: lines for path in sources if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 300}
    assert len(sources) > 50
    assert long == {}
