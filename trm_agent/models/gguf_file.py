"""Read a GGUF file (version 3): its settings, and its tensors as float32."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
MAGIC, VERSION = b"GGUF", 3
ALIGNMENT = "general.alignment"
# kind of a setting -> its form; 8 is a text, 9 a list
_NUMBERS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_TEXT, _LIST = 8, 9


def _q4_1(blocks: Bytes) -> Floats:
    """Return d q + m: two half-precision numbers, then 32 numbers of 4 bits, the lower halves of the bytes first."""
    scale, least = _half(blocks, 0), _half(blocks, 2)
    packed = blocks[:, 4:]
    quants = np.concatenate([packed & 0x0F, packed >> 4], axis=1).astype(np.float32)
    return scale * quants + least


def _q8_0(blocks: Bytes) -> Floats:
    """Return d q: a half-precision number, then 32 signed bytes."""
    return _half(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _half(blocks: Bytes, start: int) -> Floats:
    """Return the half-precision number at a byte of each block, shape (blocks, 1)."""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view(np.float16).astype(np.float32)


@dataclass(frozen=True)
class _Packing:
    """The form of a tensor's numbers."""

    numbers: int
    """Numbers of a block."""
    size: int
    """Bytes of a block."""
    unpack: Callable[[Bytes], Floats]
    """Bytes of shape (blocks, size) to numbers of shape (blocks, numbers)."""


_PACKINGS = {
    0: _Packing(1, 4, lambda blocks: blocks.view(np.float32)),
    1: _Packing(1, 2, lambda blocks: blocks.view(np.float16).astype(np.float32)),
    3: _Packing(32, 20, _q4_1),
    8: _Packing(32, 34, _q8_0),
}


@dataclass(frozen=True)
class GGUF:
    """What a file holds."""

    settings: dict[str, Any]
    """Settings by name, such as `llama.block_count`."""
    tensors: dict[str, Floats]
    """Tensors by name, with the shape that torch has for them (rows first)."""


def read_gguf(file: Path) -> GGUF:
    """Read a file.

    Raises:
        ValueError: it is no GGUF file of version 3, ends too early, or has numbers in a form that is not known here.
    """
    data: Any = np.memmap(file, dtype=np.uint8, mode="r")
    try:
        return _read(memoryview(data), data)
    except (struct.error, IndexError, UnicodeDecodeError, KeyError) as error:
        raise ValueError(f"{file}: cannot be read as GGUF ({error!r}); fetch it again") from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}; fetch it again") from error


def _read(view: memoryview, data: Bytes) -> GGUF:
    reader = _Reader(view)
    magic, version = bytes(view[:4]), reader.number("I", at=4)
    if magic != MAGIC or version != VERSION:
        raise ValueError(f"begins with {magic!r}, version {version}: not GGUF of version {VERSION}")
    reader.place = 8
    num_tensors, num_settings = reader.number("Q"), reader.number("Q")
    settings = {}
    for _ in range(num_settings):
        name = reader.text()
        settings[name] = reader.value(reader.number("I"))
    rows = [_Row(reader) for _ in range(num_tensors)]
    unit = int(settings.get(ALIGNMENT, 32))
    start = -(-reader.place // unit) * unit
    return GGUF(settings, {row.name: row.tensor(data[start:]) for row in rows})


class _Reader:
    """A place in the file's head, which moves on by what is read."""

    def __init__(self, view: memoryview) -> None:
        self.view, self.place = view, 0

    def number(self, form: str, at: int | None = None) -> Any:
        place = self.place if at is None else at
        if at is None:
            self.place += struct.calcsize(f"<{form}")
        return struct.unpack_from(f"<{form}", self.view, place)[0]

    def text(self) -> str:
        length = self.number("Q")
        found = bytes(self.view[self.place : self.place + length])
        if len(found) < length:
            raise ValueError("ends within a text")
        self.place += length
        return found.decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind == _LIST:
            of, length = self.number("I"), self.number("Q")
            return [self.value(of) for _ in range(length)]
        return self.number(_NUMBERS[kind])


class _Row:
    """A row of the file's table of tensors."""

    def __init__(self, reader: _Reader) -> None:
        self.name = reader.text()
        # the fastest dimension first
        self.shape = tuple(reader.number("Q") for _ in range(reader.number("I")))[::-1]
        self.kind, self.offset = reader.number("I"), reader.number("Q")

    def tensor(self, data: Bytes) -> Floats:
        packing = _PACKINGS.get(self.kind)
        if packing is None:
            raise ValueError(f"{self.name}: numbers of kind {self.kind}, of which only {sorted(_PACKINGS)} are known")
        blocks, rest = divmod(int(np.prod(self.shape)), packing.numbers)
        stored = data[self.offset : self.offset + blocks * packing.size]
        if rest or len(stored) < blocks * packing.size:
            raise ValueError(f"{self.name}: {len(stored)} bytes for the shape {self.shape}")
        return packing.unpack(np.ascontiguousarray(stored).reshape(blocks, packing.size)).reshape(self.shape)
