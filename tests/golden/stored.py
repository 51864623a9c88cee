"""Golden files on disk, and what the bits of their floats depend on."""

import base64
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
FILES = HERE / "files"


def read(name: str) -> dict[str, Any]:
    return json.loads((FILES / f"{name}.json").read_text(encoding="utf-8"))


def write(name: str, content: dict[str, Any]) -> None:
    """Write sorted keys, one entry of the second level a line, so that a diff can be read."""
    FILES.mkdir(exist_ok=True)
    blocks = []
    for key, block in sorted(content.items()):
        if isinstance(block, dict):
            entries = ",\n".join(f"  {json.dumps(name)}: {_line(value)}" for name, value in sorted(block.items()))
            blocks.append(f" {json.dumps(key)}: {{\n{entries}\n }}")
        else:
            blocks.append(f" {json.dumps(key)}: {_line(block)}")
    (FILES / f"{name}.json").write_text("{\n" + ",\n".join(blocks) + "\n}\n", encoding="utf-8")


def _line(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def packed(values: Any) -> str:
    """An array of 32-bit numbers as text, bit for bit."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def unpacked(text: str, dtype: Any = "<f4") -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype=dtype).copy()


def this_machine() -> dict[str, str]:
    """Everything that the last bits of a sum or an exponential depend on, with one thread."""
    import torch

    return {
        "torch": torch.__version__,
        "processor": platform.machine(),
        # libraries choose kernels by it, with the same instructions
        "vendor": _vendor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def _vendor() -> str:
    """Return who made the processor; "unknown" where the system does not tell."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "unknown")
