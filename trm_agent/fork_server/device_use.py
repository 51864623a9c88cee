"""What a process holds of a GPU: CUDA does not work in a fork of a process that has used it."""

import os
import sys
from collections.abc import Mapping
from fnmatch import fnmatch

# verl's name of its platform, which `hardware=cpu` sets
PLATFORM, CPU = "VERL_PLATFORM", "cpu"
DESCRIPTORS = "/proc/self/fd"
# NVIDIA's devices with their control files and `nvidia-caps`, those of Windows beneath this system, and AMD's
DEVICES = ("/dev/nvidia*", "/dev/dxg", "/dev/kfd", "/dev/dri/*")
# the driver's management library in Python, of whoever has imported a copy of it
NVML = ("pynvml", "vllm.third_party.pynvml", "ray._private.thirdparty.pynvml.pynvml")


def may_use_gpu(env: Mapping[str, str]) -> bool:
    """Return True if the processes of a run with this environment may use a GPU."""
    return env.get(PLATFORM, "").strip().lower() != CPU


def in_use() -> list[str]:
    """Return what this process holds of a GPU, in words; nothing where a fork of it can use one."""
    found = [f"{path} open" for path in sorted(_open_devices())]
    cuda = sys.modules.get("torch.cuda")
    if cuda is not None and cuda.is_initialized():
        found.append("CUDA initialised")
    # counted by its own calls to begin and to end
    if any(getattr(sys.modules.get(name), "_nvmlLib_refcount", 0) > 0 for name in NVML):
        found.append("NVML in use")
    return found


def _open_devices() -> set[str]:
    """Return the devices of GPUs among the open files of this process."""
    found = set()
    for descriptor in os.listdir(DESCRIPTORS):
        try:
            path = os.readlink(os.path.join(DESCRIPTORS, descriptor))
        except OSError:  # that of the listing itself
            continue
        if any(fnmatch(path, pattern) for pattern in DEVICES):
            found.add(path)
    return found
