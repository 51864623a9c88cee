"""The GPUs that a run may use, as `nvidia-smi` tells them; nothing else asks it."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trm_agent.runs.hidden_gpus import VARIABLE, hides_all
from trm_agent.runs.programs import output_of

MIB, GIB = 1 << 20, 1 << 30
FIELDS = ("index", "uuid", "name", "memory.total", "memory.free", "compute_cap", "driver_version", "mig.mode.current")
QUERY = ("nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits")
# major version of CUDA -> the oldest driver for Linux that runs its builds, minor versions included:
# https://docs.nvidia.com/deploy/cuda-compatibility, "minor version compatibility"
LEAST_DRIVERS = {"13": "580.65.06", "12": "525.60.13"}
# bfloat16 and the attention kernels need Ampere
LEAST_CAPABILITY = "8.0"
# of a device's memory; a desktop takes a little, a program that computes takes more
FREE_SHARE = 0.8


@dataclass(frozen=True)
class Gpu:
    """A CUDA device."""

    index: int
    """Its number in the order of the bus."""
    uuid: str
    """Its name for `CUDA_VISIBLE_DEVICES`; empty where it has none."""
    name: str
    """Its product."""
    total: int
    """Bytes of its memory."""
    free: int
    """Bytes that no program has taken."""
    capability: str
    """CUDA's compute capability, such as 9.0; empty where the driver does not tell it."""
    driver: str
    """Version of the driver."""
    sliced: bool = False
    """Whether it is split by MIG: a process gets a slice, whose memory is not told here."""

    @property
    def gib(self) -> int:
        """Return its memory in whole GiB, downwards, so that a driver's own share does not change a plan."""
        return self.total // GIB

    @property
    def is_free(self) -> bool:
        """Return False where another program holds a part of it; of a slice nothing is told."""
        return self.sliced or self.free >= FREE_SHARE * self.total


def read_gpus(env: Mapping[str, str] | None = None) -> tuple[list[Gpu], str]:
    """Ask the driver for the devices that an environment shows.

    Args:
        env: the environment of the command; None takes that of the process.

    Returns:
        The devices in the variable's order, else the bus's, and why there are none; "" where there are.
    """
    text, why = output_of(QUERY)
    if text is None:
        return [], f"{QUERY[0]}: {why}"
    env = os.environ if env is None else env
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = [gpu for line in lines if (gpu := parse(line)) is not None]
    listed = env.get(VARIABLE)
    shown = visible(found, listed)
    unread = next((line for line in lines if parse(line) is None), None)
    # a device that cannot be read counts, unless the variable leaves it out
    if unread is not None and (listed is None or len(shown) < len(listed.split(","))):
        return [], f"nvidia-smi says {unread!r}"
    if not found:
        return [], "nvidia-smi lists none"
    named = "hides every one" if hides_all(env) else f"is {listed}, which names none"
    return shown, "" if shown else f"{VARIABLE} {named} of {len(found)}"


def remedy_of(why: str) -> str:
    """Return what to do about a reason of `read_gpus`."""
    if why.startswith(VARIABLE):
        return f"unset {VARIABLE}, or list devices that nvidia-smi lists"
    if why.startswith("nvidia-smi says"):
        return f"restart the machine's driver, or leave that device out with {VARIABLE}"
    return "install or restart NVIDIA's driver"


def parse(line: str) -> Gpu | None:
    """Read a line of `QUERY`'s output; None where it is of another form. A product's name may hold commas."""
    first, _, rest = line.partition(",")
    uuid, _, rest = rest.partition(",")
    parts = [part.strip() for part in rest.rsplit(",", 5)]
    if len(parts) != 6 or not (first.strip().isdigit() and parts[1].isdigit() and parts[2].isdigit()):
        return None
    name, total, free, capability, driver, mig = parts
    known = capability if capability.replace(".", "").isdigit() else ""
    return Gpu(int(first), uuid.strip(), name, int(total) * MIB, int(free) * MIB, known, driver, mig == "Enabled")


def visible(gpus: Sequence[Gpu], listed: str | None) -> list[Gpu]:
    """Return the devices that a value of `CUDA_VISIBLE_DEVICES` shows: CUDA reads up to the first entry of none."""
    if listed is None:
        return list(gpus)
    shown: list[Gpu] = []
    for entry in (part.strip() for part in listed.split(",")):
        match = next((gpu for gpu in gpus if _is_named(gpu, entry)), None)
        if match is None or match in shown:
            break
        shown.append(match)
    return shown


def is_older(version: str, least: str) -> bool:
    """Return True if a version of numbers and dots is below another one; an unknown one is not."""
    found, wanted = (tuple(int(part) for part in each.split(".") if part.isdigit()) for each in (version, least))
    return bool(found) and found < wanted


def _is_named(gpu: Gpu, entry: str) -> bool:
    if entry.isdigit():
        return int(entry) == gpu.index
    if entry.startswith("MIG-"):
        # which GPU holds a slice is not asked
        return gpu.sliced
    return entry.startswith("GPU-") and gpu.uuid.startswith(entry)


def torch_cuda() -> str | None:
    """Return the CUDA version that the installed PyTorch was built for; None without CUDA or without PyTorch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).with_name("version.py")
    found = re.search(r"^cuda[^=\n]*=\s*'([^']+)'", file.read_text(encoding="utf-8"), re.M) if file.exists() else None
    return found[1] if found else None


def lacks_cuda() -> bool:
    """Return True if PyTorch is installed and was built without CUDA."""
    return importlib.util.find_spec("torch") is not None and torch_cuda() is None


def least_driver(cuda: str | None) -> str:
    """Return the oldest driver for a CUDA version; that of the newest one where none is given."""
    return LEAST_DRIVERS.get((cuda or "").partition(".")[0], max(LEAST_DRIVERS.values()))
