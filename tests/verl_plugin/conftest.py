"""Fixtures of several files."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch


@pytest.fixture
def one_rank(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """verl on a CPU, as the only rank of a group of gloo."""
    from verl.plugin.platform import platform_manager
    from verl.workers.engine.fsdp import transformer_impl

    from trm_agent.verl_plugin.cpu.platform import PlatformCPU

    monkeypatch.setattr(platform_manager, "_current_platform", PlatformCPU())
    monkeypatch.setattr(transformer_impl, "device_name", "cpu")
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's own address in the place of its node's in Ray."""
    import ray

    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")


@pytest.fixture
def ends(here: None) -> Iterator[Any]:
    """Makes both ends of a transfer of weights over TCP, connected; see `Ends`."""
    from tests.verl_plugin.tcp_ends import Ends

    made = Ends()
    yield made
    made.close()
