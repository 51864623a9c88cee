r"""The final answer in a model's text: the last `\boxed{...}`, else the last `<answer>...</answer>`.

No answer is read from a thought; see `trm_envs.thoughts`.
"""

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from trm_envs.scoring.spelling import strip_delimiters, trim_end
from trm_envs.thoughts import speech

BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
MAX_BOXES = 64
MAX_GAP = 200
# Between boxes of one statement: signs of maths mode, commas, "and", "or", a name and "=".
JOINED = re.compile(
    r"(?:\s|\$|\\[,;:! ]|\\q?quad|[,;]|\b(?:and|or)\b"
    r"|\\(?:text|mathrm|textrm)\s*\{\s*(?:,\s*)?(?:and|or|,)\s*(?:,\s*)?\}|\\[()\[\]]|(?:[A-Za-z]|\\[a-z]+)(?:_(?:\{[^{}]{1,8}\}|\w))?\s*=)*"
)
_PRINTED = re.compile(r"\\(?:text[a-z]*|mathrm|mathbf|mbox)\s*\{(.*)\}", re.DOTALL)
_TAG_OPEN, _TAG_CLOSE = "<answer>", "</answer>"
# A backslash takes the next character with it: \{ and \} are printed braces, not groups.
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


@dataclass(frozen=True)
class Extraction:
    """The final answer found in a model's text."""

    answer: str | None
    """The answer, spaces stripped and never empty; None if nothing was found."""
    source: Literal["box", "tag", "none"]
    """The place of the answer."""


def extract_answer(text: str) -> Extraction:
    """Return the final answer of a model's text. Linear in the text's length; never raises.

    A box that is cut off or empty is not an answer, and no earlier box stands in for it: the model's last word counts.
    """
    visible = after_thoughts(text)
    boxed = last_boxed(visible)
    if boxed is not None:
        return Extraction(boxed, "box") if boxed else Extraction(None, "none")
    tagged = last_tagged(visible)
    return Extraction(tagged, "tag") if tagged else Extraction(None, "none")


def after_thoughts(text: str) -> str:
    """Return the part of a text outside thoughts; see `trm_envs.thoughts`."""
    return speech(text)


def last_boxed(text: str) -> str | None:
    """Return the inside of the last box, "" if that box is empty or cut off; None if there is no box.

    Boxes that one statement joins, such as $x=\\boxed{3}$ or $x=\\boxed{5}$, are one answer: the list of their insides.
    """
    last = _last_box(text, len(text))
    if last is None:
        return None
    answers, start = [last.inside], last.start
    while answers[0] and len(answers) < MAX_BOXES and (before := _last_box(text, start)) is not None:
        # An inner box ends behind the start of the outer; a box that is cut off has no end.
        if before.end is None or not 0 <= start - before.end <= MAX_GAP:
            break
        if not JOINED.fullmatch(text[before.end : start]):
            break
        answers.insert(0, before.inside)
        start = before.start
    return ", ".join(dict.fromkeys(answers))


class _Box(NamedTuple):
    start: int
    end: int | None
    inside: str


def _last_box(text: str, limit: int) -> _Box | None:
    """Return the last box that begins before a place; its inside is "" if it is empty or cut off."""
    # The last occurrence of the word bounds the search: no scan over a megabyte of boxes.
    for word in sorted({text.rfind("\\boxed", 0, limit), text.rfind("\\fbox", 0, limit)}, reverse=True):
        match = BOX.match(text, word) if word >= 0 else None
        if match is not None:
            end = group_end(text, match.end() - 1)
            inside = "" if end is None else trim_end(text[match.end() : end]) or text[match.end() : end].strip()
            return _Box(word, None if end is None else end + 1, inside)
    return None


def plain_answer(text: str) -> str:
    r"""Return a box's inside without the markup of maths mode: `\text{son}` is `son`, `377.` is `377`, `$5$` is `5`."""
    text = strip_delimiters(trim_end(text))
    printed = _PRINTED.fullmatch(text)
    return trim_end(printed[1]) if printed is not None and is_balanced(printed[1]) else text


def last_tagged(text: str) -> str | None:
    """Return the inside of the last answer tag; None if it is not closed or there is none."""
    _, tag, tail = text.rpartition(_TAG_OPEN)
    inside, closed, _ = tail.partition(_TAG_CLOSE)
    return trim_end(inside) if tag and closed else None


def group_end(text: str, opening: int) -> int | None:
    r"""Return the index of the brace that closes the one at `opening`, `\{` and `\}` passed over; None if none does."""
    depth = 0
    for match in _BRACE.finditer(text, opening):
        brace = match[0]
        if brace == "{":
            depth += 1
        elif brace == "}":
            depth -= 1
            if depth == 0:
                return match.start()
    return None


def is_balanced(text: str) -> bool:
    """Return True if every brace of the text has its partner."""
    if "{" not in text and "}" not in text:
        return True
    return group_end("{" + text + "}", 0) == len(text) + 1
