"""The bytes that the values of a Parquet file take in memory, told before any text is expanded."""

import os
from collections.abc import Collection, Iterator
from typing import Any

import pyarrow
import pyarrow.compute
import pyarrow.parquet

FREE_BYTES = 1 << 28
"""Bytes of values that any file may have: a small one of equal values is packed well."""
MOST_GROWTH = 100
"""Largest factor by which a larger one may grow; values that hardly repeat keep it below 20."""
_VALUE_BYTES = 8
_BATCH_ROWS = 64


def most_bytes(path: str | os.PathLike[str]) -> int:
    """Return the bytes that the values of a file may take."""
    return max(FREE_BYTES, MOST_GROWTH * os.path.getsize(path))


def grown_bytes(path: str | os.PathLike[str], columns: Collection[str] | None = None) -> int:
    """Return the bytes that the values of a Parquet file take; a number over `most_bytes` is a part of them.

    Numbers count by the file's table of contents. A text counts each time that a row refers to it: texts are read as
    dictionaries, in which one that repeats stands once, and only lengths are summed up.

    Args:
        path: the file.
        columns: those whose texts will be read; None for all. Numbers of the others count as well.

    Raises:
        OSError, pyarrow.ArrowException: it is not a Parquet file, or is damaged.
    """
    contents, most = pyarrow.parquet.read_metadata(path), most_bytes(path)
    leaves = [contents.schema.column(index) for index in range(contents.num_columns)]
    chunks = [
        (group, index, contents.row_group(group).column(index), leaf)
        for group in range(contents.num_row_groups)
        for index, leaf in enumerate(leaves)
    ]
    grown = sum(_told(chunk, leaf) for _, _, chunk, leaf in chunks)
    if grown > most:
        return grown
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    with (
        pyarrow.parquet.ParquetFile(path, metadata=contents, read_dictionary=texts) as file,
        pyarrow.parquet.ParquetFile(path, metadata=contents) as plain,
    ):
        once = [each for field in file.schema_arrow for each in _has_dictionary(field.type)]
        for group, index, chunk, leaf in chunks:
            if leaf.physical_type != "BYTE_ARRAY" or not (columns is None or leaf.path.partition(".")[0] in columns):
                continue
            grown += _VALUE_BYTES * chunk.num_values - _told(chunk, leaf)
            for num_bytes in _texts(file if once[index] else None, plain, group, index):
                grown += num_bytes
                if grown > most:
                    return grown
    return grown


def _told(chunk: Any, leaf: Any) -> int:
    """Return the bytes of a column's chunk by the table of contents, which counts a text that repeats once."""
    # the length is that of a value of fixed length
    return max(chunk.total_uncompressed_size, max(_VALUE_BYTES, leaf.length) * chunk.num_values)


def _texts(
    file: pyarrow.parquet.ParquetFile | None, plain: pyarrow.parquet.ParquetFile, group: int, index: int
) -> Iterator[int]:
    """Yield bytes of the texts of a column's chunk, each counted as often as it stands there.

    Args:
        file: open, to be read with dictionaries; None if the column has a type that is not.
        plain: the same without.
        group: the number of the row group.
        index: the number of the column: two can have one name.
    """
    counted, chunk = None, plain.metadata.row_group(group).column(index)
    if file is not None:
        try:
            counted = _expanded(*file.reader.read_row_group(group, [index], use_threads=False).itercolumns())
        except (OSError, pyarrow.ArrowException):
            # a packing that makes no dictionary; damage is met again below, or by whoever reads the file
            counted = None
    if counted is None and plain.metadata.schema.column(index).max_repetition_level:
        # one row may hold all of them, so that they cannot be read in parts
        counted = chunk.num_values * chunk.total_uncompressed_size
    if counted is not None:
        yield counted
        return
    num = max(1, min(_BATCH_ROWS, FREE_BYTES // max(1, chunk.total_uncompressed_size)))
    for batch in plain.reader.iter_batches(num, [group], [index], use_threads=False):
        yield _expanded(*batch.columns)


def _has_dictionary(kind: Any) -> Iterator[bool]:
    """Yield for each column that a type consists of whether it is read as a dictionary."""
    children = [] if isinstance(kind, pyarrow.BaseExtensionType) else [kind.field(i) for i in range(kind.num_fields)]
    for child in children:
        yield from _has_dictionary(child.type)
    if isinstance(kind, pyarrow.BaseExtensionType):
        yield from (False for _ in _has_dictionary(kind.storage_type))
    elif not children:
        yield pyarrow.types.is_dictionary(kind)


def _expanded(values: Any) -> int:
    """Return the bytes of an array's texts, each counted as often as it stands there."""
    if isinstance(values, pyarrow.ChunkedArray):
        return sum(map(_expanded, values.chunks))
    if isinstance(values, pyarrow.ExtensionArray):
        return _expanded(values.storage)
    if pyarrow.types.is_struct(values.type):
        return sum(_expanded(values.field(index)) for index in range(values.type.num_fields))
    if pyarrow.types.is_map(values.type):
        return _expanded(values.keys) + _expanded(values.items)
    if pyarrow.types.is_nested(values.type):
        return _expanded(values.values)
    if not pyarrow.types.is_dictionary(values.type):
        return int(values.nbytes)
    lengths = pyarrow.compute.binary_length(values.dictionary)
    return pyarrow.compute.sum(lengths.take(values.indices)).as_py() or 0
