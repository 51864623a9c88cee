"""Answers as JSON in pieces: a long text or file is encoded bit by bit, so that nobody else waits for it."""

import base64
import json
from collections.abc import Iterator
from typing import Any

from trm_envs.sandbox.interface import Result

PIECE = 1 << 18
"""Characters that are encoded at once."""
_BYTES = 3 << 16
"""Bytes of a file that are encoded at once; a multiple of three, so that the texts can be joined."""


def size_of(results: list[Result]) -> int:
    """Return about how many bytes the results hold."""
    return sum(len(result.stdout) + len(result.stderr) + sum(map(len, result.files.values())) for result in results)


def whole(answer: Any) -> str:
    """Return a short answer as JSON."""
    return "".join(_texts(answer))


def pieces(answer: Any) -> Iterator[bytes]:
    """Return an answer as JSON, in pieces of a bounded length."""
    waiting = ""
    for text in _texts(answer):
        waiting += text
        if len(waiting) >= PIECE:
            yield waiting.encode("ascii")
            waiting = ""
    yield waiting.encode("ascii")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield "{"
        for number, (name, each) in enumerate(value.items()):
            yield f"{', ' if number else ''}{json.dumps(str(name))}: "
            yield from _texts(each)
        yield "}"
    elif isinstance(value, list):
        yield "["
        for number, each in enumerate(value):
            yield ", " if number else ""
            yield from _texts(each)
        yield "]"
    elif isinstance(value, bytes):
        yield '"'
        for start in range(0, len(value), _BYTES):
            yield base64.b64encode(memoryview(value)[start : start + _BYTES]).decode("ascii")
        yield '"'
    elif isinstance(value, str):
        yield '"'
        for start in range(0, len(value), PIECE):
            yield json.dumps(value[start : start + PIECE])[1:-1]
        yield '"'
    else:
        yield json.dumps(value)
