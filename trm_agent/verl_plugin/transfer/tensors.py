"""A tensor as a header and bytes, and back."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from trm_agent.verl_plugin.transfer.connection import TransferError

_DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in _DTYPES}


def header_of(name: str, tensor: torch.Tensor) -> dict[str, Any]:
    """Return what the receiver must know of a weight before its bytes come.

    Raises:
        TransferError: its dtype is not one of `DTYPES`.
    """
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise TransferError(f"{name} is of {dtype}, and not of {', '.join(DTYPES)}")
    return {"name": name, "dtype": dtype, "shape": list(tensor.shape)}


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a tensor on the CPU in row-major order, without a copy where they lie so."""
    octets: Any = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    return memoryview(octets)


def empty_for(header: Mapping[str, Any]) -> torch.Tensor:
    """Return a tensor with room for the bytes that a header announces.

    Raises:
        TransferError: the header is of no tensor.
    """
    name, dtype, shape = header.get("name"), DTYPES.get(str(header.get("dtype"))), header.get("shape")
    sizes = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not isinstance(name, str) or not name or dtype is None or not sizes:
        raise TransferError(f"a header that announces no weight: {dict(header)}")
    assert isinstance(shape, list), "checked above"
    return torch.empty(math.prod(shape), dtype=dtype).view(shape)
