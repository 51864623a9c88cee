"""JSON of strangers: looked over cheaply before it is decoded, so that no body costs more than it may."""

import json
import math
from typing import Any

from trm_envs.sandbox.fusion.bounds import Bounds

LONGEST_MESSAGE = 300
"""Characters of a field's name or a message: both may repeat what the client sent."""
ANSWER_VALUES, ANSWER_DEPTH, ANSWER_DIGITS = 500_000, 100, 300
"""Bounds of a server's answer: its values, which hold up other calls, are as many as the program makes them."""


class BadField(ValueError):
    """A field of a request is not allowed.

    Args:
        field: its name.
        message: the requirement.
    """

    def __init__(self, field: str, message: str) -> None:
        self.field, self.message = _cut(field), _cut(message)
        super().__init__(f"{self.field}: {self.message}")


class Numeral(float):
    """A number with more digits than allowed: infinite, so that every limit refuses it by its field's name."""

    def __new__(cls, text: str) -> "Numeral":
        """Return the number."""
        made = super().__new__(cls, -math.inf if text.startswith("-") else math.inf)
        made.text = f"a number of {len(text)} characters"
        return made

    text: str

    def __repr__(self) -> str:
        return self.text


class TooManyValues(ValueError):
    """An answer holds more than any honest program's."""


def decode(data: bytes | bytearray, bounds: Bounds) -> Any:
    """Return the value of a request's body.

    Raises:
        BadField: if it is not JSON in UTF-8, or exceeds the limits on values and nesting.
    """
    _look_over(data, bounds.values, bounds.depth)

    def number(text: str, kind: type[int] | type[float]) -> float:
        return kind(text) if len(text) <= bounds.digits else Numeral(text)

    try:
        return json.loads(
            data.decode(),
            parse_int=lambda text: number(text, int),
            parse_float=lambda text: number(text, float),
            object_pairs_hook=_once_each,
        )
    except BadField:
        raise
    except UnicodeDecodeError as error:
        raise BadField("body", f"not UTF-8: {error.reason} at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise BadField("body", f"not JSON: {error}") from error


def decode_answer(data: bytes) -> Any:
    """Return the value of a server's answer.

    Raises:
        TooManyValues: if it has more values than it may, or nests deeper.
        ValueError: if it is not JSON, or holds a number beyond a float's range.
    """
    if sum(map(data.count, (b",", b":", b"[", b"{"))) > ANSWER_VALUES:  # in texts, too: most answers are done here
        try:
            _look_over(data, ANSWER_VALUES, ANSWER_DEPTH)
        except BadField as error:
            raise TooManyValues(f"an answer: {error.message}") from error
    return json.loads(data, parse_int=_whole, parse_float=_finite, parse_constant=_refuse)


def _whole(text: str) -> int:
    if len(text) > ANSWER_DIGITS:
        raise ValueError(f"a number of {len(text)} characters")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def _refuse(name: str) -> float:
    raise ValueError(f"{name[:40]} is not JSON")


def _look_over(data: bytes | bytearray, values: int, depth: int) -> None:
    """Count values and brackets outside of texts, without making an object of each."""
    bare = data.replace(b"\\\\", b"").replace(b'\\"', b"")  # no quote is left but those around a text
    most = f"more than {values} values"
    if bare.count(b'"') > 2 * values:
        raise BadField("body", most)
    outside = b"".join(bare.split(b'"')[::2])
    if sum(map(outside.count, (b",", b":", b"[", b"{"))) > values:
        raise BadField("body", most)
    open_now = 0
    for bracket in outside.translate(None, _NO_BRACKETS):
        open_now += 1 if bracket in b"[{" else -1
        if open_now > depth:
            raise BadField("body", f"nested deeper than {depth}")
        if open_now < 0:
            raise BadField("body", "not JSON: a bracket closes what none opened")


_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise BadField(twice, "is there twice")
    return made


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}..."
