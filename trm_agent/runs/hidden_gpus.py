"""Whether this machine has a GPU, whether `CUDA_VISIBLE_DEVICES` hides it, and what Ray reads of that on the CPU."""

import shutil
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "CUDA_VISIBLE_DEVICES"
# CUDA reads the list up to the first entry that names no device
NO_DEVICE = ("", "-1", "NoDevFiles")

DEVICES = Path("/dev")


def has_device() -> bool:
    """Return True if a driver of CUDA or ROCm, or of Windows beneath this system, offers a device."""
    return any(next(DEVICES.glob(pattern), None) for pattern in ("nvidia[0-9]*", "dxg", "kfd"))


def has_nvidia() -> bool:
    """Return True if a GPU of NVIDIA's is here: its device, or its tool where Windows holds the devices."""
    if next(DEVICES.glob("nvidia[0-9]*"), None):
        return True
    return (DEVICES / "dxg").exists() and shutil.which("nvidia-smi") is not None


def hides_all(env: Mapping[str, str]) -> bool:
    """Return True if an environment hides every GPU from CUDA."""
    listed = env.get(VARIABLE)
    return listed is not None and listed.split(",")[0].strip() in NO_DEVICE


def for_logical_devices(env: Mapping[str, str], number: int) -> dict[str, str]:
    """Return the variable for a run on the CPU, whose devices are logical; empty where it is not set.

    Ray refuses to start with more devices than the variable lists, and hands them out from it.

    Args:
        env: the environment of the command.
        number: the logical devices of this machine.
    """
    return {VARIABLE: ",".join(["-1"] * number)} if VARIABLE in env else {}
