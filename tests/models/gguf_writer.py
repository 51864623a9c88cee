"""Write a GGUF file by the format's description, for tests of what reads one."""

import struct
from pathlib import Path
from typing import Any

import numpy as np

F32, F16, Q4_1, Q8_0 = 0, 1, 3, 8
ALIGNMENT = 32


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def setting(value: Any) -> bytes:
    """The kind and the value: texts, booleans, whole numbers, fractions and lists of these."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<IQ", 10, value)
    if isinstance(value, float):
        return struct.pack("<Id", 12, value)
    items = [setting(item) for item in value]
    return struct.pack("<I", 9) + items[0][:4] + struct.pack("<Q", len(items)) + b"".join(item[4:] for item in items)


def stored(values: np.ndarray, kind: int) -> bytes:
    """Numbers as blocks of a kind, rounded to its levels."""
    if kind in (F32, F16):
        return values.astype({F32: "<f4", F16: "<f2"}[kind]).tobytes()
    blocks = values.reshape(-1, 32)
    out = b""
    for block in blocks:
        if kind == Q8_0:
            scale = np.float16(np.abs(block).max() / 127 or 1)
            out += scale.tobytes() + np.rint(block / np.float32(scale)).astype(np.int8).tobytes()
        else:
            least = np.float16(block.min())
            scale = np.float16((block.max() - block.min()) / 15 or 1)
            levels = np.clip(np.rint((block - np.float32(least)) / np.float32(scale)), 0, 15).astype(np.uint8)
            # the first half of the block lies in the lower four bits
            out += scale.tobytes() + least.tobytes() + (levels[:16] | levels[16:] << 4).tobytes()
    return out


def write_gguf(
    file: Path, settings: dict[str, Any], tensors: dict[str, tuple[np.ndarray, int]], version: int = 3
) -> Path:
    """Write a file of tensors, each with its kind."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(settings))
    for name, value in settings.items():
        head += text(name) + setting(value)
    data = b""
    for name, (values, kind) in tensors.items():
        head += text(name) + struct.pack("<I", values.ndim)
        head += b"".join(struct.pack("<Q", size) for size in reversed(values.shape))
        head += struct.pack("<IQ", kind, len(data))
        raw = stored(values, kind)
        data += raw + b"\0" * (-len(raw) % ALIGNMENT)
    file.write_bytes(head + b"\0" * (-len(head) % ALIGNMENT) + data)
    return file
