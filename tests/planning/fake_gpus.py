"""Fake GPUs: a fake `nvidia-smi` on the path, and devices as it would tell them."""

from pathlib import Path

import pytest

from trm_agent.runs import hidden_gpus
from trm_agent.runs.planning import auto, machine
from trm_agent.runs.planning.machine import GIB, VARIABLE, Gpu


def fake_gpu(index: int = 0, gib: int = 80, **changes: object) -> Gpu:
    """A GPU that nobody uses."""
    values = {
        "index": index,
        "uuid": f"GPU-{index}aa",
        "name": "NVIDIA H100 80GB HBM3",
        "total": gib * GIB,
        "free": gib * GIB,
        "capability": "9.0",
        "driver": "580.95.05",
    }
    return Gpu(**{**values, **changes})  # type: ignore[arg-type]


def fake_line(gpu: Gpu) -> str:
    """The line of the fake nvidia-smi for a GPU."""
    sizes = f"{gpu.total >> 20}, {gpu.free >> 20}"
    mig = "Enabled" if gpu.sliced else "[N/A]"
    return f"{gpu.index}, {gpu.uuid}, {gpu.name}, {sizes}, {gpu.capability}, {gpu.driver}, {mig}"


def fake_nvidia_smi(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *gpus: Gpu, fails: str = "", says: str | None = None
) -> None:
    """Put a fake nvidia-smi in front of the path, and a fake device file where the command looks for one.

    The installed PyTorch counts as one with CUDA, and the machine has memory for any model. `says` is the whole output.
    """
    said = "\n".join(fake_line(gpu) for gpu in gpus) if says is None else says
    script = f"echo '{fails}' >&2; exit 9" if fails else f"cat <<'END'\n{said}\nEND"
    devices = folder / "dev"
    devices.mkdir(exist_ok=True)
    (devices / "nvidia0").touch()
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(hidden_gpus, "DEVICES", devices)
    monkeypatch.setattr(machine, "torch_cuda", lambda: "13.0")
    monkeypatch.setattr(auto, "free_memory_gib", lambda: 2048.0)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
