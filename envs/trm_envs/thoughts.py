"""Walk once through a model's text: thoughts, words said aloud, and the calls in between.

A thought begins with `<think>` and ends at the first `</think>`; one that never ends takes the rest of the text.
Nothing in a thought is read, and inside a call think tags are text. A `</think>` before any thought closes one that the
prompt opened: the text before it is thought. Any later one is text.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from trm_envs.turn import MalformedCall

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
_THINK_TAG = re.compile(f"{THINK_OPEN}|{THINK_CLOSE}")
CallT = TypeVar("CallT")
Decoder = Callable[[str, re.Match[str]], tuple[CallT | None, int]]
"""Function of the text and the match of an opening that returns the call, or None for plain text, and its end."""


@dataclass(frozen=True)
class Scan(Generic[CallT]):
    """The contents of a text."""

    speech: str
    """Text said aloud: neither thought nor call."""
    calls: tuple[CallT, ...] = ()
    """The calls in order; empty if one is malformed."""
    malformed: str | None = None
    """Fault of the first call that cannot be read; None if all can."""


def scan(text: str, opening: str, new_decoder: Callable[[], Decoder[CallT]]) -> Scan[CallT]:
    """Walk through a text once. Linear in its length if the decoder is; never raises.

    Args:
        text: one assistant turn.
        opening: a regular expression for the opening of a call.
        new_decoder: makes the reader of a call from a match of `opening`, which raises a MalformedCall.
    """
    marks = re.compile(f"{THINK_OPEN}|{THINK_CLOSE}|{opening}", re.MULTILINE)
    found = _walk(text, 0, marks, new_decoder(), may_begin_inside=True)
    if isinstance(found, int):
        found = _walk(text, found, marks, new_decoder(), may_begin_inside=False)
    assert isinstance(found, Scan)
    return found


def speech(text: str) -> str:
    """Return the text said aloud, for a text without calls."""
    # a pattern that never matches
    return scan(text, "(?!)", lambda: lambda _, match: (None, match.end())).speech


def _walk(
    text: str, start: int, marks: re.Pattern[str], decode: Decoder[CallT], may_begin_inside: bool
) -> Scan[CallT] | int:
    """Walk from `start`; if the text turns out to begin inside a thought, return where that ends."""
    said: list[str] = []
    calls: list[CallT] = []
    position = start
    while mark := marks.search(text, position):
        said.append(text[position : mark.start()])
        if mark[0] == THINK_OPEN:
            may_begin_inside = False
            said.append("\n")
            end = text.find(THINK_CLOSE, mark.end())
            position = len(text) if end < 0 else end + len(THINK_CLOSE)
        elif mark[0] == THINK_CLOSE:
            if may_begin_inside:
                return mark.end()
            said.append(mark[0])
            position = mark.end()
        else:
            try:
                call, position = decode(text, mark)
            except MalformedCall as error:
                tag = _THINK_TAG.search(text, mark.end()) if may_begin_inside else None
                if tag is not None and tag[0] == THINK_CLOSE:
                    return tag.end()
                return Scan("".join(said), malformed=str(error))
            if call is None:
                said.append(text[mark.start() : position])
            else:
                calls.append(call)
    said.append(text[position:])
    return Scan("".join(said), tuple(calls))
