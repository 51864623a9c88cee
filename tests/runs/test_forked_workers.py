"""Workers are forks on one machine whose Ray the command starts, and the command says so."""

import copy
import functools
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from trm_agent.fork_server import handle
from trm_agent.runs import elsewhere, forked_workers
from trm_agent.runs.compose import compose_run
from trm_agent.runs.forked_workers import RAY_VERSION, fork_server, forks, told_start


@pytest.fixture(autouse=True)
def no_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(elsewhere, "RAY_HERE", tmp_path / "no_cluster")


@functools.cache
def composed(experiment: str) -> DictConfig:
    return compose_run([f"experiment={experiment}"])


def run_on(experiment: str = "math_4x80gb", **changes: object) -> DictConfig:
    config = copy.deepcopy(composed(experiment))
    for name, value in changes.items():
        OmegaConf.update(config, name.replace("__", "."), value, force_add=True)
    return config


def test_one_machine_s_workers_are_forks_with_gpus_and_without() -> None:
    assert forks(run_on())
    assert forks(run_on("math_nano"))
    assert forks(run_on("math_nano", hardware__fork_server=None))
    assert not forks(run_on(hardware__fork_server=False))
    assert "workers are forks" in told_start(run_on())
    assert told_start(run_on(hardware__fork_server=False)).endswith("since hardware.fork_server=false")
    assert told_start(run_on("math_nano")) == ""


@pytest.mark.parametrize(
    ("changes", "address", "words"),
    [
        ({"trainer__nnodes": 2}, "", "trainer.nnodes=2, and a server starts the processes of its own machine"),
        ({}, "10.0.0.1:6379", r"a Ray that runs already \(10.0.0.1:6379\)"),
        ({"ray_kwargs__ray_init__address": "auto"}, "", r"a Ray that runs already \(auto\)"),
        ({"global_profiler__tool": "nsys"}, "", "global_profiler.tool=nsys"),
    ],
)
def test_elsewhere_each_worker_starts_by_itself_and_forks_are_refused(
    changes: dict[str, object], address: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    config = run_on(**changes)
    assert not forks(config)
    fork_server(config)
    assert told_start(config).startswith("start: each worker by itself, since ")
    with pytest.raises(ValueError, match=f"^hardware.fork_server: got true, but .*{words}.*; allowed: null or false"):
        fork_server(run_on(**changes, hardware__fork_server=True))


def test_a_ray_on_this_machine_starts_its_own_workers(tmp_path: Path) -> None:
    (tmp_path / "no_cluster").touch()
    assert not forks(run_on())
    # without a GPU the server goes on beside it
    fork_server(run_on("math_nano"))
    assert forks(run_on("math_nano"))


def test_another_ray_is_left_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert RAY_VERSION == handle.RAY_VERSION
    monkeypatch.setattr(forked_workers.importlib.metadata, "version", lambda name: "2.99.0")
    assert not forks(run_on())
    assert told_start(run_on()).endswith(f"it was written for ray {RAY_VERSION}, and 2.99.0 is installed")
