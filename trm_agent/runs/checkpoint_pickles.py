"""Read the pickles of a checkpoint as data: only the constructors of tensors are called.

torch's restricted unpickler does the reading. It allows what a file of tensors needs; the arrays in which verl keeps
the state of numpy's generator are allowed by stand-ins.
"""

import os
import pickletools
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.tensor  # allows the pieces of a sharded tensor

from trm_agent.runs.numpy_state import STAND_INS

FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
IN_FLIGHT = "transfer_queue"
# ways to name a class other than that of torch.save
_ODD_OPCODES = ("INST", "OBJ", "EXT1", "EXT2", "EXT4", "PERSID")
_PROTOCOL = 2
# what a pickle may fill at any length with a few bytes; torch allows it and never writes it
_GROWING = ("builtins bytearray", "__builtin__ bytearray")
_REMEDY = "nothing of it was run; use a checkpoint that a training of yours wrote, or its weights as safetensors"


def check_pickle(file: Path) -> None:
    """Refuse a file of `torch.save` that holds more than tensors and plain values, without running any of it.

    Raises:
        ValueError: it would call something, would grow when read, or is not such a file.
    """
    check_stored(file)
    try:
        with _allowed():
            unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
        odd = _odd_opcodes(file)
    except Exception as error:
        raise ValueError(f"{file}: not a file of torch.save ({_short(error)}); {_REMEDY}") from error
    if unsafe or odd:
        names = ", ".join(repr(name)[1:-1] for name in [*sorted(unsafe), *odd][:5])
        raise ValueError(f"{file}: holds more than tensors: reading it would call {names[:200]}; {_REMEDY}")


def check_stored(file: Path) -> None:
    """Refuse an archive whose parts are larger than the archive: `torch.save` compresses nothing.

    Raises:
        ValueError: it is not an archive, or its parts would grow.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{file}: not a file of torch.save ({_short(error)}); {_REMEDY}") from error
    total, size = sum(part.file_size for part in parts), file.stat().st_size
    if total > size or any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise ValueError(f"{file}: {size} bytes would grow to {total}, as in no file of torch.save; {_REMEDY}")


def check_checkpoint(folder: Path) -> None:
    """Refuse a checkpoint of verl in which a file would run something when a training resumes from it.

    Args:
        folder: `global_step_N`.

    Raises:
        ValueError: a file holds more than tensors; the message names it.
    """
    check_in_flight(folder)
    for file in sorted(folder.rglob("*.pt")):
        check_pickle(file)


def check_in_flight(folder: Path) -> None:
    """Refuse prompts in flight, which the asynchronous trainers of verl keep as pickles and read as programs.

    Raises:
        ValueError: there are some.
    """
    if (folder / IN_FLIGHT).exists():
        raise ValueError(
            f"{folder / IN_FLIGHT}: prompts in flight are stored as pickles, which run what they hold when they are "
            f"read; {_REMEDY}, or remove this folder: these prompts are then drawn anew"
        )


def load_pickle(file: Path) -> Any:
    """Return the tensors of a file of `torch.save`, on the CPU and mapped, not copied.

    Raises:
        ValueError: it holds anything else.
    """
    check_pickle(file)
    try:
        with _allowed():
            return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # any error of a constructor on values that do not fit
        raise ValueError(f"{file}: cannot be read as tensors ({_short(error)}); {_REMEDY}") from error


@contextmanager
def weights_only() -> Iterator[None]:
    """Make every `torch.load` inside the block read as `load_pickle` does, whatever its arguments."""
    before = os.environ.get(FORCE)
    os.environ[FORCE] = "1"
    try:
        with _allowed():
            yield
    finally:
        if before is None:
            del os.environ[FORCE]
        else:
            os.environ[FORCE] = before


def _odd_opcodes(file: Path) -> list[str]:
    """Return the instructions of the pickle that torch.save never writes."""
    with zipfile.ZipFile(file) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        found = {(opcode, argument) for opcode, argument, _ in pickletools.genops(archive.read(name))}
    odd = {opcode.name for opcode, _ in found if opcode.proto > _PROTOCOL or opcode.name in _ODD_OPCODES}
    growing = {argument.replace(" ", ".") for opcode, argument in found if argument in _GROWING}
    return sorted(odd | growing)


def _allowed() -> Any:
    return torch.serialization.safe_globals([*STAND_INS])


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
