"""Read lists of tests: JSON text, or base64 of zlib of a pickled JSON text, as LiveCodeBench packs them.

Such a pickle is never run: it is read as a list of instructions, and only those that make one text are allowed. Of
JSON, only a flat list is read: one test after another, each an object of texts, numbers and words. So a few packed
bytes can grow to `MAX_BYTES` and copies of that, no more, and no nesting is ever built.
"""

import base64
import json
import pickletools
import re
import zlib
from collections.abc import Iterator
from typing import Any

MAX_BYTES = 1 << 26
"""Largest length of the tests of one row, unpacked."""
MAX_TESTS, MAX_FIELDS = 10_000, 20
"""Largest number of tests per row, and of fields per test."""
_TEXT_OPCODES = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_OTHER_OPCODES = ("PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP")
_TEXT = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_FIELD = re.compile(rf"\s*({_TEXT})\s*:\s*({_TEXT}|-?[0-9.eE+-]+|true|false|null)\s*([,}}])", re.DOTALL)
_OPENING, _BETWEEN = re.compile(r"\s*(\[|\{)"), re.compile(r"\s*([,\]])\s*")


def unpack_tests(text: str) -> Iterator[dict[str, Any]]:
    """Yield the tests that a text holds, one after another.

    Raises:
        ValueError: if it is not a flat list of tests, or is longer than `MAX_BYTES`.
    """
    if not text.lstrip().startswith("["):
        text = _unpack(text)
    _check_size(len(text))
    return _flat_objects(text)


def read_pickled_text(data: bytes) -> str:
    """Return the text that a pickle holds, without running the pickle.

    Raises:
        ValueError: if it holds anything but one text.
    """
    texts: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in _TEXT_OPCODES and not texts:
                texts.append(str(argument))
            elif opcode.name in _TEXT_OPCODES:
                raise ValueError("the pickle holds several texts; expected one")
            elif opcode.name not in _OTHER_OPCODES:
                raise ValueError(f"the pickle holds more than a text: {opcode.name}")
    except (KeyError, IndexError, OverflowError) as error:
        raise ValueError("the pickle is damaged") from error
    if not texts:
        raise ValueError("the pickle holds no text; expected one")
    return texts[0]


def _unpack(text: str) -> str:
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text, validate=True), MAX_BYTES + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    _check_size(len(data))
    if not unpacker.eof:
        raise ValueError("is incomplete")
    return read_pickled_text(data)


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise ValueError(f"is longer than {MAX_BYTES} bytes; leave the row out, or give it fewer tests")


def _flat_objects(text: str) -> Iterator[dict[str, Any]]:
    opening = _OPENING.match(text)
    if opening is None or opening[1] != "[":
        raise ValueError("expected a list of tests")
    position = opening.end()
    if (end := _BETWEEN.match(text, position)) is not None and end[1] == "]":
        _check_end(text, end.end())
        return
    for number in range(MAX_TESTS):
        opening = _OPENING.match(text, position)
        if opening is None or opening[1] != "{":
            raise ValueError(f'test {number}: expected an object with "input" and "output"')
        test, position = _flat_object(text, opening.end(), number)
        yield test
        following = _BETWEEN.match(text, position)
        if following is None:
            raise ValueError(f"the list is cut off after test {number}")
        position = following.end()
        if following[1] == "]":
            _check_end(text, position)
            return
    raise ValueError(f"has more than {MAX_TESTS} tests; leave the row out, or give it fewer")


def _flat_object(text: str, position: int, number: int) -> tuple[dict[str, Any], int]:
    test: dict[str, Any] = {}
    for _ in range(MAX_FIELDS):
        field = _FIELD.match(text, position)
        if field is None:
            break
        test[json.loads(field[1])] = json.loads(field[2])
        position = field.end()
        if field[3] == "}":
            return test, position
    raise ValueError(
        f"test {number}: expected at most {MAX_FIELDS} fields of text, near {text[position : position + 30]!r}"
    )


def _check_end(text: str, position: int) -> None:
    if text[position:].strip():
        raise ValueError("more text follows the list")
