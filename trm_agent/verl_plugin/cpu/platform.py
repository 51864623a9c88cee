"""A platform of verl for a machine without an accelerator (verl 0.9.1, `verl/plugin/platform`)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import psutil
import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry

from trm_agent.fork_server.client import NEEDS_ALL
from trm_agent.runs.groups import ENGINE_THREADS


class CPUDevice(str):
    """The string `cpu` that reads as index 0.

    verl uses `get_device_id()` both as a device (`tensor.to(id)`) and as an index (`f"{name}:{id}"`, `int(id)`); the
    integer 0 would mean the first accelerator to torch.
    """

    __slots__ = ()

    def __new__(cls) -> "CPUDevice":
        return super().__new__(cls, "cpu")

    def __format__(self, spec: str) -> str:
        return format("0", spec)

    def __int__(self) -> int:
        return 0

    def __index__(self) -> int:
        return 0

    def __reduce__(self) -> tuple[Any, ...]:
        return (CPUDevice, ())


class CPUDeviceModule(ModuleType):
    """`torch.cpu` with the memory and random-state functions that verl calls on `get_torch_device()`."""

    def __init__(self) -> None:
        super().__init__("trm_agent_torch_cpu")

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def __eq__(self, other: object) -> bool:
        # verl tests `get_torch_device() is/== torch.cpu` to detect a machine without an accelerator
        return other is self or other is torch.cpu

    def __hash__(self) -> int:
        return hash(torch.cpu)

    def memory_allocated(self, *_: Any) -> int:
        return psutil.Process().memory_info().rss

    memory_reserved = max_memory_allocated = max_memory_reserved = memory_allocated

    def mem_get_info(self, *_: Any) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        return memory.available, memory.total

    def get_device_name(self, *_: Any) -> str:
        return "CPU"

    def get_rng_state(self, *_: Any) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, *_: Any) -> None:
        torch.set_rng_state(state)

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def _nothing(self, *_: Any, **__: Any) -> None:
        """Do nothing: a CPU has neither device memory to manage nor a queue to wait for."""

    empty_cache = ipc_collect = synchronize = set_device = reset_peak_memory_stats = _nothing
    set_per_process_memory_fraction = _nothing


_DEVICE_MODULE = CPUDeviceModule()


class PlatformCPU(PlatformBase):
    """One logical device, gloo collectives, weights through shared memory."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _DEVICE_MODULE

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        # never found by verl's auto-detection: only VERL_PLATFORM=cpu selects it
        return os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"

    def current_device(self) -> Any:
        return CPUDevice()

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        return

    def synchronize(self, device_index: int | None = None) -> None:
        return

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        return

    def empty_cache(self) -> None:
        return

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        return

    def profiler_stop(self) -> None:
        return

    def ray_resource_name(self) -> str:
        # verl counts only "GPU" and "NPU" (single_controller/ray/base.py); Ray accepts logical GPUs on any machine
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        # no CUDA IPC: verl then moves the weights through POSIX shared memory
        return False

    def rollout_env_vars(self) -> dict[str, str]:
        # of hardware.engine_threads: a small model's threads wait for each other, and for agent loops and servers
        return {"OMP_NUM_THREADS": os.environ.get(ENGINE_THREADS, "1"), NEEDS_ALL: "1"}

    def cudart(self) -> None:
        return None


def register() -> None:
    """Make `VERL_PLATFORM=cpu` known to verl."""
    PlatformRegistry.register(platform="cpu")(PlatformCPU)
