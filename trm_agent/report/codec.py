"""Store an episode in few bytes: indices into a table of tokens, and numbers on a logarithmic scale, compressed.

Layout of the bytes before compression: length of the header (uint32, little endian), the header (JSON, padded with
spaces to a multiple of 4), then its sections, each at a multiple of 4. page/codec.js reads the same.
"""

import base64
import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

# the smallest number that a scale tells apart from 0, and the largest: nats
POSITIVE = (1e-7, 1e2)
SIGNED = (1e-5, 1e2)
LEVEL = 6
_CODES = {"u1": "B", "u2": "H", "u4": "I", "f4": "f"}
_DTYPES: dict[str, np.dtype[Any]] = {code: np.dtype(f"<{kind}") for kind, code in _CODES.items()}


def quantise(values: np.ndarray, bits: int, signed: bool = False) -> np.ndarray:
    """Encode numbers on a logarithmic scale.

    Code 0 is 0, the largest code stands for non-finite numbers, and those between are spaced evenly in log |x|; a
    signed code holds its sign in the lowest bit. The relative error within the scale is at most `max_error(bits,
    signed)`; beyond its ends a value becomes 0 or the end.

    Args:
        values: any shape; at least 0 unless `signed`.
        bits: 8 or 16.
        signed: True if values may be negative.

    Returns:
        uint8 or uint16, same shape.
    """
    low, high = SIGNED if signed else POSITIVE
    levels = _levels(bits, signed)
    magnitude = np.abs(np.asarray(values, dtype=np.float64))
    finite = np.isfinite(magnitude)
    inside = np.clip(np.where(finite, magnitude, low), low, high)
    position = np.log(inside / low) / math.log(high / low)
    codes = np.where(finite & (magnitude < low), 0, 1 + np.rint(position * (levels - 1)))
    codes = np.where(finite, codes, levels + 1).astype(np.int64)
    if signed:
        codes = 2 * codes + (np.asarray(values) < 0)
    return codes.astype(np.uint8 if bits == 8 else np.uint16)


def restore(codes: np.ndarray, bits: int, signed: bool = False) -> np.ndarray:
    """Decode the numbers of `quantise` as float64; values that were not finite are NaN."""
    low, high = SIGNED if signed else POSITIVE
    levels = _levels(bits, signed)
    steps = codes.astype(np.int64) >> 1 if signed else codes.astype(np.int64)
    values = low * np.exp(math.log(high / low) * (steps - 1) / (levels - 1))
    values = np.where(steps == 0, 0.0, np.where(steps > levels, np.nan, values))
    return np.where(codes & 1, -values, values) if signed else values


def max_error(bits: int, signed: bool = False) -> float:
    """Return the largest relative error of a number within the scale."""
    low, high = SIGNED if signed else POSITIVE
    return math.expm1(math.log(high / low) / (_levels(bits, signed) - 1) / 2)


def _levels(bits: int, signed: bool) -> int:
    """Return the number of codes for finite numbers other than 0."""
    return 2 ** (bits - int(signed)) - 2


def smallest(indices: np.ndarray) -> np.ndarray:
    """Convert whole numbers to the smallest type of the layout."""
    largest = int(indices.max(initial=0))
    return indices.astype("<u2" if largest < 2**16 else "<u4")


def pack(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """Pack a header and arrays into compressed base64 text.

    Args:
        header: JSON-clean.
        arrays: one-dimensional, of unsigned 8, 16, 32 bits or float32.

    Returns:
        ASCII text without line breaks.
    """
    sections, offset, parts = {}, 0, []
    for name, array in arrays.items():
        code = _CODES[array.dtype.str[1:]]
        data = np.ascontiguousarray(array, dtype=_DTYPES[code]).tobytes()
        sections[name] = [code, offset, len(array)]
        parts.append(data + b"\0" * (-len(data) % 4))
        offset += len(parts[-1])
    text = json.dumps({**header, "sections": sections}, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    whole = b"".join([len(text).to_bytes(4, "little"), text, *parts])
    return base64.b64encode(zlib.compress(whole, LEVEL)).decode("ascii")


def unpack(text: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the header and the arrays that `pack` took."""
    whole = zlib.decompress(base64.b64decode(text))
    start = 4 + int.from_bytes(whole[:4], "little")
    header = json.loads(whole[4:start])
    sections = header.pop("sections")
    arrays = {
        name: np.frombuffer(whole, dtype=_DTYPES[code], count=count, offset=start + offset)
        for name, (code, offset, count) in sections.items()
    }
    return header, arrays
