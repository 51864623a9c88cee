"""Read stored JSON and YAML within bounds, so that a file can neither end this process nor hold it up.

A file is refused with a short reason if it nests too deep, has integers beyond a float's range, or expands to many
times its size, as YAML can with aliases. Numbers that are not finite are read unless the caller refuses them.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MAX_DEPTH = 100
MAX_DIGITS = 300
MAX_VALUES = 1_000_000


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits, at most {MAX_DIGITS} are read")
    return int(digits)


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


_DECODER = json.JSONDecoder(parse_int=_whole)
_FINITE = json.JSONDecoder(parse_int=_whole, parse_constant=_refuse)


def read_json(text: str | bytes, *, finite: bool = False) -> Any:
    """Return the value of a JSON text.

    Args:
        text: in UTF-8 if bytes.
        finite: True refuses NaN and the infinities.

    Raises:
        ValueError: it is not JSON, or out of bounds; the message is a short reason.
    """
    try:
        text = text if isinstance(text, str) else text.decode()
        value = (_FINITE if finite else _DECODER).decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    except RecursionError:
        raise _too_deep() from None
    if text.count("[") + text.count("{") > MAX_DEPTH:
        check_bounds(value)
    return value


def json_lines(file: Path) -> Iterator[tuple[int, dict[str, Any], str]]:
    """Read the complete lines of a file of JSON objects; a last line that was cut by a kill is left out.

    Yields:
        Number of the line, from 1; the object; and "" or, with an empty object, the reason why it cannot be read.
    """
    *lines, _ = file.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = read_json(line)
        except ValueError as error:
            yield number, {}, str(error)
            continue
        is_object = isinstance(value, dict)
        yield number, value if is_object else {}, "" if is_object else f"a {type(value).__name__}, not an object"


def read_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        ValueError: it is not YAML, or out of bounds; the message is a short reason.
    """
    import yaml  # the command's help needs this module, but not yaml

    # the C loader, if it was built, takes a tenth of the time
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    try:
        # on events, since the loader itself ends the process if they nest too deep
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise _too_deep()
        value = yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error).strip().splitlines()[0]) from error
    except RecursionError:
        raise _too_deep() from None
    check_bounds(value)
    return value


def check_files(folder: Path) -> None:
    """Refuse a folder with a pipe, a device or a socket in it, or a link to one: reading it might never end.

    Raises:
        ValueError: there is one; the message names it.
    """
    for where, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(where, name)
            with contextlib.suppress(OSError):  # a link that leads nowhere
                if not stat.S_ISREG(os.stat(path).st_mode):
                    raise ValueError(f"{path}: neither a file nor a folder; remove it, or take a folder without it")


def printable(text: str) -> str:
    """Return a text for a terminal, with escapes in the place of what would control it."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def check_bounds(value: Any) -> None:
    """Refuse a value that nests too deep, or has too many values or too large integers.

    Raises:
        ValueError: it does; the message is a short reason.
    """
    unread = [(value, 0)]
    count = 0
    while unread:
        entry, depth = unread.pop()
        count += 1
        if count > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES:,} values")
        if depth > MAX_DEPTH:
            raise _too_deep()
        if isinstance(entry, Mapping):
            unread += [(child, depth + 1) for child in entry.values()]
        elif isinstance(entry, (list, tuple, set)):
            unread += [(child, depth + 1) for child in entry]
        elif isinstance(entry, int) and abs(entry) >= 10**MAX_DIGITS:
            raise ValueError(f"an integer of more than {MAX_DIGITS} digits")


def _too_deep() -> ValueError:
    return ValueError(f"nested more than {MAX_DEPTH} levels deep")
