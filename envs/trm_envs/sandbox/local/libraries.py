"""The shared libraries that a program or an extension module names, as its ELF file says it."""

import os
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_MAGIC, _64_BIT, _LITTLE_ENDIAN = b"\x7fELF", 2, 1
_LOADED, _DYNAMIC = 1, 2
_NEEDED, _STRINGS, _PATH, _RUN_PATH = 1, 5, 15, 29
_HEADER, _SEGMENT, _ENTRY = struct.Struct("<16xHHIQQQIHHH"), struct.Struct("<IIQQQQQQ"), struct.Struct("<qQ")


class Needs(NamedTuple):
    """Demands of a file on the dynamic linker."""

    names: tuple[str, ...] = ()
    """Names of libraries."""
    folders: tuple[str, ...] = ()
    """Where it says that they are, before the folders of the system."""


def closure(files: Iterable[str], folders: Iterable[str]) -> list[str]:
    """Return the libraries that files load, and that those load, as far as they lie outside of the system's folders.

    Args:
        files: programs and extension modules.
        folders: where their libraries are looked for, beside the folders that the files name.
    """
    found: dict[str, None] = {}
    waiting = list(files)
    while waiting:
        needs = needs_of(waiting.pop())
        for name in needs.names:
            places = (os.path.join(folder, name) for folder in (*needs.folders, *folders))
            library = next((place for place in places if os.path.isfile(place)), None)
            if library is not None and library not in found:
                found[library] = None
                waiting.append(library)
    return list(found)


def needs_of(path: str) -> Needs:
    """Read the names and folders in an ELF file; nothing of any other file."""
    try:
        with open(path, "rb") as file:
            data = file.read()
        strings: bytes = b""
        tags: list[tuple[int, int]] = []
        if data[:4] == _MAGIC and (data[4], data[5]) == (_64_BIT, _LITTLE_ENDIAN):
            strings, tags = _dynamic(data)
    except (OSError, struct.error, IndexError, OverflowError):
        return Needs()
    origin = os.path.dirname(os.path.realpath(path))
    lists = [_text(strings, value) for tag, value in tags if tag in (_PATH, _RUN_PATH)]
    folders = [folder for one in lists for folder in one.split(":") if folder]
    return Needs(
        tuple(_text(strings, value) for tag, value in tags if tag == _NEEDED),
        tuple(os.path.normpath(each.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", origin)) for each in folders),
    )


def _dynamic(data: bytes) -> tuple[bytes, list[tuple[int, int]]]:
    """Return the table of strings and the entries of the dynamic section."""
    _, _, _, _, table, _, _, _, size, number = _HEADER.unpack_from(data)
    segments = [_SEGMENT.unpack_from(data, table + size * index) for index in range(number)]
    tags = [
        entry
        for kind, _, start, _, _, length, _, _ in segments
        if kind == _DYNAMIC
        for entry in _ENTRY.iter_unpack(data[start : start + length - length % _ENTRY.size])
    ]
    starts = [start for tag, address in tags if tag == _STRINGS for start in _places(segments, address)]
    return (data[starts[0] :] if starts else b""), tags


def _places(segments: list[tuple[int, ...]], address: int) -> Iterator[int]:
    """Where in the file an address of the loaded program lies."""
    for kind, _, start, base, _, length, _, _ in segments:
        if kind == _LOADED and base <= address < base + length:
            yield start + address - base


def _text(strings: bytes, start: int) -> str:
    return strings[start : strings.index(b"\0", start)].decode("utf-8", "surrogateescape")
