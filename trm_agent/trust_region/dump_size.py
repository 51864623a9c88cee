"""The size of a dump's values in memory, known from a file's table of contents before any is read."""

from pathlib import Path

import numpy as np
import pyarrow.parquet

FREE_BYTES = 256 << 20
"""Bytes of values that any file may have: a small one of equal values is packed well."""
MOST_GROWTH = 100
"""Largest factor by which a larger one may grow; log-probs, which hardly repeat, keep it below 20."""
_VALUE_BYTES = 8


def check_size(file: Path, contents: pyarrow.parquet.FileMetaData) -> None:
    """Refuse a file whose values would fill the memory: some kilobytes can hold billions of equal ones.

    Raises:
        ValueError: they are too many for the file's length.
    """
    groups = [contents.row_group(index) for index in range(contents.num_row_groups)]
    columns = [group.column(index) for group in groups for index in range(group.num_columns)]
    grown = sum(max(column.total_uncompressed_size, _VALUE_BYTES * column.num_values) for column in columns)
    if grown > max(FREE_BYTES, MOST_GROWTH * file.stat().st_size):
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
