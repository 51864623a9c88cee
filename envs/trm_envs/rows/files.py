"""Raw rows of `.jsonl`, `.json` and `.parquet` files, and a cache per process of objects made from a file."""

import hashlib
import json
import os
import stat
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, TypeVar

SUFFIXES = (".jsonl", ".json", ".parquet")
MAX_BATCH_ROWS = 64
T = TypeVar("T")


def read_rows(path: str) -> list[dict[str, Any]]:
    """Return the rows of a file as they are; see `iter_rows`."""
    return list(iter_rows(path))


def iter_rows(path: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file as they are, with a few of them in memory at a time (`.json` is read whole).

    Raises:
        ValueError: if there is no such file, it is empty, damaged or not UTF-8, or a row is not an object.
        ImportError: if it is a Parquet file and pyarrow is missing.
    """
    _stamp(path)
    path = os.path.expanduser(path)
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}; convert or rename the file")
    readers = {".jsonl": _jsonl_values, ".json": _json_values, ".parquet": _parquet_values}
    number = -1
    for number, value in enumerate(readers[suffix](path)):
        if not isinstance(value, dict):
            raise ValueError(f"{path}, row {number}: is {kind_of(value)}; each row must be an object with named fields")
        yield value
    if number < 0:
        raise ValueError(f"{path}: holds no rows; give a file with at least one")


def convert_rows(path: str, convert: Callable[[dict[str, Any]], T]) -> Iterator[T]:
    """Yield a converter's result for each row of a file.

    Args:
        path: the file.
        convert: row -> task; a ValueError that it raises says which field is wrong, and gets the file and the row.

    Raises:
        ValueError: see `iter_rows`; also for a row that the converter refuses.
    """
    for number, row in enumerate(iter_rows(path)):
        try:
            yield convert(row)
        except ValueError as error:
            raise ValueError(f"{path}, row {number} (counted from 0): {error}") from error


def hash_of_file(path: str) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(os.path.expanduser(path), "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


_made: dict[tuple[Hashable, ...], tuple[tuple[int, int], Any]] = {}
_making = threading.RLock()


def once_per_file(path: str, make: Callable[..., T], *arguments: Hashable) -> T:
    """Return `make(path, *arguments)`, made once per process and again when the file changes; safe among threads.

    Args:
        path: the file; links to the same file share its entry.
        make: a function of a module (not a lambda or a method, which would be another one each time).
        arguments: everything else that decides the result.

    Raises:
        ValueError: if there is no such file, or `make` refuses it.
    """
    stamp, key = _stamp(path), (os.path.realpath(os.path.expanduser(path)), make, *arguments)
    with _making:
        if key not in _made or _made[key][0] != stamp:
            _made[key] = stamp, make(path, *arguments)
        return _made[key][1]


def _forget_lock() -> None:
    """Replace the lock in a forked child: the parent's may be held for ever."""
    global _making
    _making = threading.RLock()


os.register_at_fork(after_in_child=_forget_lock)


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(os.path.expanduser(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: no such file (looked in {os.getcwd()}); give an absolute path") from error
    if stat.S_ISDIR(status.st_mode):
        raise ValueError(f"{path}: is a folder; give one file of it, that ends in {', '.join(SUFFIXES)}")
    return status.st_mtime_ns, status.st_size


def _jsonl_values(path: str) -> Iterator[Any]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            text = _decode(line, f"{path}, line {number}")
            if text.strip():
                yield _parse(text, f"{path}, line {number}")


def _json_values(path: str) -> Iterable[Any]:
    with open(path, "rb") as file:
        text = _decode(file.read(), path)
    values = _parse(text, path) if text.strip() else []
    if not isinstance(values, list):
        raise ValueError(f"{path}: holds {kind_of(values)}; expected a list of rows (one row a line is .jsonl)")
    return values


def _parquet_values(path: str) -> Iterator[Any]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"{path}: needs pyarrow: pip install pyarrow, or convert the file to .jsonl") from error
    from trm_fields.parquet_size import MOST_GROWTH, grown_bytes, most_bytes

    try:
        grown, most = grown_bytes(path), most_bytes(path)
        if grown > most:
            raise ValueError(
                f"{path}: holds more than {most >> 20} MiB when read, over {MOST_GROWTH} times its length; write it "
                "again without what repeats, or as .jsonl"
            )
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=MAX_BATCH_ROWS):
                yield from batch.to_pylist()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: holds text that is not UTF-8; write it again as UTF-8") from error
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(
            f"{path}: is not a Parquet file, or is damaged ({error}); download or write it again"
        ) from error


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: byte {error.start} is not UTF-8; save the file as UTF-8") from error


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: is not JSON ({error}); the file may be cut off, or be of another form") from error


def kind_of(value: Any) -> str:
    """Describe a value in the words of a message."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
