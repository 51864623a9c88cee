r"""Forms of a final answer: the protocol's own, or another one that a file's prompts ask for.

`box` is the protocol's own form, `\boxed{...}` but for `tags`, which has `<answer>...</answer>`. The others take its
place: `tag` is `<answer>...</answer>`, `line` a last line `Answer: ...` as DAPO-Math's prompts ask for, `hashes` a last
line `#### ...` as GSM8K's solutions end.
"""

import re
from collections.abc import Iterator
from typing import Protocol

from trm_envs.scoring.extract import after_thoughts, last_boxed, last_tagged

BOX, TAG, LINE, HASHES = "box", "tag", "line", "hashes"
ANSWER_FORMS = (BOX, TAG, LINE, HASHES)
_WRITTEN = {TAG: "<answer>{}</answer>", LINE: "Answer: {}", HASHES: "#### {}"}
# marks of lists, headings and bold type may stand around the word
_LINE = re.compile(r"[\s>*_#-]*(?:the\s+)?(?:final\s+)?answer[*_]*\s*:(.*)", re.IGNORECASE)
_HASHES = re.compile(r"[\s>*_-]*####(?!#)(.*)")
# marks of a prompt that asks for a form, and the words that must stand around them
_MARKS: dict[str, tuple[str, ...]] = {
    BOX: ("\\boxed", "\\fbox"),
    TAG: ("<answer>",),
    LINE: ("answer:",),
    HASHES: ("####",),
}
_ASKED = {
    # words about an answer beside the box; a box alone may be a blank of the problem
    BOX: re.compile(
        r"(?:answer|result|solution|put|enclose|format)[^\n]{0,120}\\(?:boxed|fbox)\b"
        r"|\\(?:boxed|fbox)\b[^\n]{0,60}(?:answer|result)",
    ),
    TAG: re.compile(r"<answer>"),
    LINE: re.compile(
        r"\b(?:line|form|format|after|with|write|as)\b[^\n.?!]{0,40}[ \"'`*(:](?:final )?answer:"
        r"|\banswer:\s*(?:\$|\[|<|\{|\\boxed)",
    ),
    HASHES: re.compile(r"(?:answer|after|form|format|line)\b[^\n]{0,80}(?<!#)####(?!#)"),
}
_BEFORE, _AFTER = 140, 80
_MOST_MARKS = 1000


class AnswerWriter(Protocol):
    """The part of a protocol that writes answers."""

    def format_answer(self, answer: str) -> str:
        """Return the text of an answer."""


def write_answer(answer: str, form: str, protocol: AnswerWriter) -> str:
    """Return the text of an answer in a form."""
    return protocol.format_answer(answer) if form == BOX else _WRITTEN[form].format(answer)


def show_form(answer: str, form: str, protocol: AnswerWriter) -> str:
    """Return a prompt's words after "give the final answer as"."""
    written = write_answer(answer, form, protocol)
    return f'a last line "{written}"' if form in (LINE, HASHES) else written


def read_answer(text: str, form: str) -> str | None:
    """Return the final answer of a model's turn in a form other than the protocol's own; None if there is none.

    The last of several counts. Linear in the text's length; never raises.
    """
    visible = after_thoughts(text)
    if form == TAG:
        return last_tagged(visible) or None
    pattern = _LINE if form == LINE else _HASHES
    below = ""
    for line in reversed(visible.splitlines()):
        if match := pattern.fullmatch(line):
            return _bare(match[1]) or _bare(below) or None
        below = line if line.strip() else below
    return None


def own_form(protocol: AnswerWriter) -> str:
    """Return a protocol's own form, "box" or "tag"."""
    return TAG if protocol.format_answer("") == write_answer("", TAG, protocol) else BOX


def asked_forms(prompt: str) -> set[str]:
    """Return the forms of an answer that a prompt asks for; empty if it leaves that open."""
    text = prompt.lower()
    return {form for form, pattern in _ASKED.items() if any(map(pattern.search, _windows(text, _MARKS[form])))}


def _windows(text: str, marks: tuple[str, ...]) -> Iterator[str]:
    """Yield the text around each of the first marks."""
    for mark in marks:
        position = text.find(mark)
        for _ in range(_MOST_MARKS):
            if position < 0:
                break
            yield text[max(0, position - _BEFORE) : position + _AFTER]
            position = text.find(mark, position + 1)


def _bare(text: str) -> str:
    """Return an answer without bold type, and without its box if it has one."""
    text = text.strip().removeprefix("**").removesuffix("**").strip()
    boxed = last_boxed(text) if text.count("\\boxed") + text.count("\\fbox") == 1 else None
    return text if boxed is None else boxed
