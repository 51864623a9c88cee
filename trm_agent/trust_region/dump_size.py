"""The size of a dump's values in memory, known before any is read."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from trm_fields.parquet_size import FREE_BYTES, MOST_GROWTH, grown_bytes, most_bytes

_VALUE_BYTES = 8


def check_size(file: Path, columns: Collection[str]) -> None:
    """Refuse a file whose values would fill the memory: some kilobytes can hold billions of equal ones.

    Args:
        file: the file.
        columns: those that will be read.

    Raises:
        ValueError: its values are too many for its length, or its texts too long.
    """
    grown = grown_bytes(file, columns)
    if grown > most_bytes(file):
        raise ValueError(
            f"{file.name}: {file.stat().st_size} bytes would grow to {grown}, as in no dump; leave the file out"
        )


def check_padded(lengths: np.ndarray) -> None:
    """Refuse sequences of which one is so long that a table of all would fill the memory.

    Raises:
        ValueError: it is.
    """
    cells, tokens = len(lengths) * int(max(lengths, default=0)), int(lengths.sum())
    if cells > max(FREE_BYTES // _VALUE_BYTES, MOST_GROWTH * tokens):
        raise ValueError(
            f"{len(lengths)} sequences, {tokens} tokens, the longest of {max(lengths)}: such a table would be nearly "
            "empty, as of no dump; leave the file with the longest out"
        )
