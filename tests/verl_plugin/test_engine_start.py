"""A server's engine is a fork where there is a fork server; the platform says which patches go with it."""

import importlib.metadata
from argparse import Namespace

import pytest

from trm_agent.fork_server.client import SOCKET_VARIABLE
from trm_agent.verl_plugin.rollout import engine_start

GPU = engine_start.VLLM_VERSION


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is applied, by name."""
    found: list[str] = []
    for name in ("apply_server_patches", "fork_engine"):
        monkeypatch.setattr(engine_start, name, lambda name=name: found.append(name))
    monkeypatch.setenv(SOCKET_VARIABLE, "/somewhere")
    return found


@pytest.mark.parametrize(
    ("device", "vllm", "options", "applied"),
    [
        ("cpu", "0.27.1+cpu", {}, ["apply_server_patches"]),
        # a server on a GPU does not take itself for one on a CPU because there is a fork server
        ("cuda", GPU, {}, ["fork_engine"]),
        ("cuda", f"{GPU}+cu130", {"numa_bind": False}, ["fork_engine"]),
        ("cuda", GPU, {"numa_bind": True}, []),
        ("cuda", "0.99.0", {}, []),
    ],
)
def test_the_platform_decides_and_not_the_fork_server(
    device: str, vllm: str, options: dict, applied: list[str], started: list[str], monkeypatch, capsys
) -> None:
    monkeypatch.setattr(engine_start, "get_device_name", lambda: device)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: vllm)
    engine_start.let_engine_fork(Namespace(**options))
    assert started == applied
    assert ("the engine starts by itself, since" in capsys.readouterr().out) == (not applied)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_without_a_fork_server_nothing_is_patched(device: str, started: list[str], monkeypatch) -> None:
    monkeypatch.delenv(SOCKET_VARIABLE)
    monkeypatch.setattr(engine_start, "get_device_name", lambda: device)
    engine_start.let_engine_fork(Namespace())
    assert started == []
