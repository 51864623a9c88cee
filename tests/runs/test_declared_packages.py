"""Packages that an environment declares stand in what a run and an evaluation record."""

import dataclasses
import importlib.metadata
from collections.abc import Iterator

import gymnasium
import pytest

from trm_agent.runs.compose import compose_run
from trm_agent.runs.declared_packages import pin_packages, with_packages
from trm_envs.python_tool import PythonToolEnv, SandboxOptions

SORTED = f"sortedcontainers=={importlib.metadata.version('sortedcontainers')}"


@dataclasses.dataclass(frozen=True)
class Options(SandboxOptions):
    packages: tuple[str, ...] = (SORTED,)


class Declares(PythonToolEnv):
    options_class = Options

    def make_task(self) -> str:
        return "Sort."

    def score(self, answer: str) -> float:
        return 0.0


@pytest.fixture
def declares() -> Iterator[str]:
    gymnasium.register(id="mine/Declares-v0", entry_point=Declares)
    yield "mine/Declares-v0"
    del gymnasium.registry["mine/Declares-v0"]


@pytest.mark.slow
def test_what_an_environment_declares_by_itself_is_written_down(declares: str) -> None:
    assert with_packages(declares, None, {}) == {"packages": [SORTED]}
    assert with_packages(declares, None, {"packages": []}) == {"packages": []}
    assert with_packages("trm/ChainMath-v0", None, {"reveal": "upfront"}) == {"reveal": "upfront"}
    config = compose_run(["env=custom", f"env.id={declares}"])
    pin_packages(config)
    assert list(config.env.kwargs.packages) == [SORTED]
    plain = compose_run([])
    before = dict(plain.env.kwargs)
    pin_packages(plain)
    assert dict(plain.env.kwargs) == before
