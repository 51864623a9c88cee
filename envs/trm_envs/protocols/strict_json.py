"""Read JSON inside a tool call from its first character, and write JSON that reads back."""

import json
import math
import re
from typing import Any, NoReturn

from trm_envs.turn import MalformedCall

MAX_DEPTH = 100
MAX_DIGITS = 4300
MAX_SHOWN_CHARS = 64
_SPACE = re.compile(r"[ \t\n\r]*")
_SURROGATE = re.compile("[\ud800-\udbff](?![\udc00-\udfff])|[\udc00-\udfff]")


def skip_space(text: str, start: int) -> int:
    """Return the position of the next character other than white space."""
    match = _SPACE.match(text, start)
    assert match is not None, "also the empty text matches"
    return match.end()


def read_json(text: str, start: int = 0) -> tuple[Any, int]:
    """Return the JSON value that begins at `start`, after spaces, and its end.

    Raises:
        MalformedCall: if there is none. NaN, infinity, an object with a repeated key and values nested deeper than
            `MAX_DEPTH` do not count.
    """
    try:
        value, end = _DECODER.raw_decode(text, skip_space(text, start))
        _check_depth(value)
    except RecursionError as error:
        raise MalformedCall(f"not JSON (nested deeper than {MAX_DEPTH})") from error
    except ValueError as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise MalformedCall(f"not JSON ({reason})") from error
    return value, end


def write_json(value: Any) -> str:
    """Return the JSON text of a value, which `read_json` reads as the same value.

    Raises:
        ValueError: if it is not a JSON value.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"not a JSON value ({error}); pass str, int, float, bool, None, list or dict") from error
    # No text encoding takes a lone surrogate. The first of two that would make one character stays as it is.
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [inner for each in level for inner in _inside(each)]
        if not level:
            return
    raise RecursionError


def _inside(value: Any) -> list[Any]:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [each for each in values if isinstance(each, dict | list)]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f'the key "{twice[:MAX_SHOWN_CHARS]}" stands twice')
    return made


def _int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(text)} digits; at most {MAX_DIGITS} are read")
    return int(text)


def _float(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{text[:MAX_SHOWN_CHARS]} is too large for a number")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_int, parse_float=_float, parse_constant=_refuse_constant
)
