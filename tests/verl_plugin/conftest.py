"""Fixtures of several files."""

from collections.abc import Iterator

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
