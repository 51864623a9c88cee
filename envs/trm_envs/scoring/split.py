r"""Cut a text at signs that stand outside all brackets."""

import re

_WORD_BETWEEN = re.compile(
    r",?\s*\\(?:text|textrm|mathrm|mbox|textnormal)\s*\{\s*(?:,\s*)?(?:and|or)\s*\}|,?(?<![A-Za-z])(?:\s(?:and|or)\s)(?![a-z]{2})"
)
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)
_OPENING = frozenset(["(", "[", "{", "\\{", "\\langle", "\\lfloor", "\\lceil", "\\begin"])
_CLOSING = frozenset([")", "]", "}", "\\}", "\\rangle", "\\rfloor", "\\rceil", "\\end"])
_THOUSANDS = re.compile(r"(?<![0-9.,])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9]|,[0-9])")


def split_at(text: str, signs: frozenset[str]) -> tuple[list[str], list[str]]:
    """Return the parts between the signs that stand outside brackets, and the signs."""
    parts, found, depth, start = [], [], 0, 0
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token in _OPENING:
            depth += 1
        elif token in _CLOSING:
            depth -= 1
        elif depth == 0 and token in signs:
            parts.append(text[start : match.start()].strip())
            found.append(token)
            start = match.end()
    return [*parts, text[start:].strip()], found


def split_list(text: str) -> list[str]:
    r"""Return the members of a list: between commas, semicolons, "and", "or", and `\text{ or }`."""
    if "and" in text or "or" in text:
        text = _WORD_BETWEEN.sub(",", text)
    return split_at(text, frozenset(",;"))[0]


def join_thousands(text: str) -> str:
    """Return the text without the commas inside 1,234,567 outside brackets; 1, 234 and (1,234) keep theirs."""
    if "," not in text:
        return text
    text = text.replace("{,}", "")
    spans = [match.span() for match in _THOUSANDS.finditer(text)]
    for start, end in reversed(spans):
        before = text[:start]
        if sum(before.count(sign) for sign in "([{") <= sum(before.count(sign) for sign in ")]}"):
            text = text[:start] + text[start:end].replace(",", "") + text[end:]
    return text


def enclosed(text: str) -> tuple[str, str, str] | None:
    r"""Return (opening, inside, closing) of brackets around the whole text; None if there are none.

    An interval's brackets need not be of one kind: `(0,1]` and `]0,1[` are enclosed too.
    """
    tokens = [(match[0], match.start()) for match in _TOKEN.finditer(text)]
    if len(tokens) < 2:
        return None
    (first, _), (last, end) = tokens[0], tokens[-1]
    if first == "]" and last in ("[", "]"):
        return first, text[1:end].strip(), last
    if first not in _OPENING or first == "\\begin":
        return None
    depth = 0
    for token, place in tokens:
        depth += (token in _OPENING) - (token in _CLOSING)
        if last == "[" and place == end:
            depth = 0
        if depth == 0:
            return (first, text[len(first) : end].strip(), last) if place == end else None
    return None
