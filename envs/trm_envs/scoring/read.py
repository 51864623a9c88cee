r"""Read an answer into its form. Brackets, commas and relations are cut here; expressions go to the gate in `tree`."""

import functools
import re
from collections.abc import Iterator

from trm_envs.scoring.exact import read_number
from trm_envs.scoring.forms import Collection, Form, Interval, Leaf, Matrix, Named, Relation, Words
from trm_envs.scoring.items import Unreadable
from trm_envs.scoring.leaf import read_leaf, read_signed
from trm_envs.scoring.moments import read_moment
from trm_envs.scoring.spelling import clean, trim_end
from trm_envs.scoring.split import enclosed, join_thousands, split_at, split_list

MAX_MEMBERS = 64
MAX_DEPTH = 6
_RELATIONS = frozenset(["=", "<", ">", r"\leq", r"\geq", r"\neq", r"\in", r"\approx", r"\equiv", r"\sim"])
_INFINITE = Leaf(latex=r"\infty ", kinds=frozenset(["infty"]))
_MINUS_INFINITE = Leaf(latex=r"-\infty ", kinds=frozenset(["infty"]))
_REALS = Interval(_MINUS_INFINITE, _INFINITE, True, True)
_ALL_REALS = frozenset(["all real numbers", "all reals", "the real numbers", "real numbers"])
_AND = re.compile(r"\\(?:text|mathrm)\s*\{\s*and\s*\}|\\(?:land|wedge)(?![A-Za-z])|(?<=\s)and(?=\s)")
_LETTER = r"(?:[A-Za-z]|\\[a-z]+|\\[A-Z][a-z]+)"
_SYMBOL = rf"{_LETTER}'*(?:_(?:\{{[^{{}}]*\}}|[A-Za-z0-9]))?'*"
_NAME = re.compile(
    rf"{_SYMBOL}\s*(?:\(\s*(?:{_SYMBOL}|-?[0-9]+)(?:\s*,\s*(?:{_SYMBOL}|-?[0-9]+))*\s*\))?|[A-Z]{{2,4}}|\|?\s*[A-Z]{{2}}\s*\|?"
    r"|(?:m\s*)?\\angle\s*[A-Z]{1,3}|\\overline\s*\{[A-Z]{2}\}|\\(?:text|mathrm|textbf|textit)\s*\{[A-Za-z ,'-]*\}"
    r"|(?=[A-Z]?[a-z]*[aeiou])[A-Z]?[a-z]{3,}(?: [a-z]+)*"
    rf"|\(\s*{_SYMBOL}(?:\s*,\s*{_SYMBOL})+\s*\)"
    rf"|(?:\\(?:mathbf|vec|hat|bar|overrightarrow|boldsymbol|mathcal)\s*\{{[A-Za-z]{{1,2}}\}}|\\vec {_LETTER})(?:_\w)?"
    r"|(?:P|E|Var|\\Pr|\\mathbb\{[PE]\})\s*[(\[][^()\[\]=]*(?:=[^()\[\]=]*)?[)\]]|\[[A-Z]{3,6}\]|\|z\|"
    r"|(?:\\text\{m\}\s*)?\\(?:measured)?angle\s*[A-Z]{1,3}|\\triangle\s*[A-Z]{3}"
    rf"|[a-zA-Z]\^\{{-1\}}\(\s*(?:{_SYMBOL}|-?[0-9]+)\s*\)|[a-z]\(\s*[a-z]\(\s*(?:{_SYMBOL}|-?[0-9]+)\s*\)\s*\)"
    r"|\\text\{[A-Za-z ]*\}\s*[A-Z]{1,4}"
)
_MATRIX_NAME = re.compile(r"(?:[A-Z]|\\(?:mathbf|mathrm)\{[A-Z]\})\^(?:\{-1\}|\{?T\}?|\{?[0-9]\}?)")
_NO_NAME = re.compile(r"\\(?:pi|infty|frac|sqrt|cdot|times|sum|prod|int|lim|log|ln|sin|cos|tan|emptyset)(?![a-z])")
_PRINTED = re.compile(r"\\(?:text[a-z]*|mathrm|mathbf|mathsf|mbox|operatorname)\s*\{([^{}\\]*)\}")
_BARE_WORDS = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+|-[A-Za-z]{2,})*(?: [A-Za-z]+(?:'[A-Za-z]+|-[A-Za-z]{2,})*)*")
_MATRIX = re.compile(r"[(\[]?\s*\\begin\{([pbvBV]?matrix|smallmatrix|array)\}(.*)\\end\{\1\}\s*[)\]]?", re.DOTALL)


@functools.lru_cache(maxsize=8192)
def read_truth(text: str) -> Form:
    """Return the form of a true answer; kept, since many answers meet one truth.

    Raises:
        Unreadable: if it is of no form that can be scored.
    """
    return read_form(text)


def read_form(text: str) -> Form:
    """Return the form of an answer.

    Raises:
        Unreadable: if it is of no form that can be scored.
    """
    return _read(clean(text), 0)


def _read(text: str, depth: int) -> Form:
    if depth > MAX_DEPTH:
        raise Unreadable(f"it is nested more than {MAX_DEPTH} deep")
    text = trim_end(text)
    if not text:
        raise Unreadable("a part of it is empty")
    quantity = read_number(text)
    if quantity is not None:
        return Leaf(quantity.value, quantity)
    if (words := read_moment(text) or _words(text)) is not None:
        return words
    text = join_thousands(text)
    if (match := _MATRIX.fullmatch(text)) is not None:
        return _matrix(match[1], match[2], depth)
    if (interval := _both(text)) is not None:
        return interval
    members = split_list(text)
    if len(members) > 1:
        return Collection("list", _flat(members, depth))
    sides, signs = split_at(text, _RELATIONS)
    if signs:
        return _relation(sides, signs, depth)
    ratio, colons = split_at(text, frozenset(":"))
    if len(colons) == 1:
        return read_leaf(rf"\frac{{{ratio[0]}}}{{{ratio[1]}}}")
    if colons:
        return Collection("tuple", _flat(ratio, depth))
    pieces, unions = split_at(text, frozenset([r"\cup"]))
    if unions:
        return Collection("union", tuple(_read(piece, depth + 1) for piece in pieces))
    brackets = enclosed(text)
    if brackets is not None:
        form = _enclosed(*brackets, depth)
        if form is not None:
            return form
    return _special(text, depth) or read_signed(text)


def _both(text: str) -> Interval | None:
    """Return the interval that two inequalities of one name joined by "and" are; None if they bound none."""
    parts = [part.strip() for part in _AND.split(text)]
    if len(parts) != 2:
        return None
    cuts = [split_at(part, _RELATIONS) for part in parts]
    if any(len(signs) != 1 or signs[0] not in ("<", ">", r"\leq", r"\geq") or not all(sides) for sides, signs in cuts):
        return None
    names = [{side for side in sides if _is_name(side)} for sides, _ in cuts]
    if len(names[0]) != 1 or names[0] != names[1]:
        return None
    forms = [_inequality(*cut) for cut in cuts]
    ends = [form for form in forms if isinstance(form, Interval)]
    low = [form for form in ends if form.low is not _MINUS_INFINITE]
    high = [form for form in ends if form.high is not _INFINITE]
    if len(low) != 1 or len(high) != 1 or low == high:
        return None
    if low[0].low.value is None or high[0].high.value is None:
        return None
    return _interval(low[0].low, high[0].high, low[0].is_low_open, high[0].is_high_open)


def _flat(members: list[str], depth: int) -> tuple[Form, ...]:
    """Return the forms of a list's members; `\\pm` makes two of one."""
    if len(members) > MAX_MEMBERS:
        raise Unreadable(f"it has {len(members)} members, more than {MAX_MEMBERS}")

    def forms() -> Iterator[Form]:
        for member in members:
            form = _read(member, depth + 1)
            if isinstance(form, Collection) and form.kind == "list":
                yield from form.parts
            else:
                yield form

    return tuple(forms())


def _words(text: str) -> Words | Form | None:
    """Return printed words, bare words, or the letter of a choice; None if the text is anything else."""
    printed = _PRINTED.fullmatch(text)
    inside = " ".join((printed[1] if printed else text).split())
    if len(inside) > 2 and inside[0] == "(" and inside[-1] == ")" and inside[1:-1].strip().isalpha():
        inside = inside[1:-1].strip()
        if len(inside) > 1 and printed is None:
            return None
    elif inside.lower() in _ALL_REALS:
        return _REALS
    elif printed is None and _BARE_WORDS.fullmatch(inside) is None:
        return None
    inside = trim_end(inside)
    if printed is not None and any(sign.isdigit() for sign in inside):
        quantity = read_number(inside)
        if quantity is None:
            raise Unreadable("text holds digits")
        return Leaf(quantity.value, quantity)
    if not inside or _BARE_WORDS.fullmatch(inside) is None:
        raise Unreadable("text holds signs") if printed else Unreadable("it is no expression")
    parts = inside.split()
    if len(parts) > 6:
        raise Unreadable("it is a sentence; give the final answer alone")
    is_product = printed is None and all(len(part) <= 4 and part.isalpha() for part in parts)
    leaf = _product(inside) if is_product or len(inside) == 1 else None
    if is_product and len(parts) > 1 and all(len(part) == 1 for part in parts):
        return leaf
    return Words(inside if len(inside) == 1 else inside.lower(), leaf)


def _product(letters: str) -> Leaf | None:
    try:
        return read_leaf(letters)
    except Unreadable:
        return None


def _relation(sides: list[str], signs: list[str], depth: int) -> Form:
    if any(not side for side in sides):
        raise Unreadable("a relation lacks a side")
    if len(sides) > 8 or {r"\equiv", r"\sim"} & set(signs):
        raise Unreadable("a relation of this kind is not scored")
    if r"\approx" in signs:
        cut = signs.index(r"\approx")
        if cut or not _is_name(sides[0]):
            sides, signs = sides[: cut + 1], signs[:cut]
            return _relation(sides, signs, depth) if signs else _read(sides[0], depth + 1)
        signs = ["=" if sign == r"\approx" else sign for sign in signs]
    if signs == [r"\in"] or set(signs) == {"="}:
        is_matrix = _MATRIX_NAME.fullmatch(sides[0]) and all(map(_MATRIX.fullmatch, sides[1:]))
        if is_matrix or _is_name(sides[0]):
            *middles, last = (_read(side, depth + 1) for side in sides[1:])
            return Named("".join(sides[0].split()), last, tuple(middles))
        if len(sides) == 2 and signs == ["="]:
            return Relation("=", read_leaf(sides[0]), read_leaf(sides[1]))
        raise Unreadable("the left side of a relation is no name")
    return _inequality(sides, signs)


def _inequality(sides: list[str], signs: list[str]) -> Form:
    if signs[0] in (">", r"\geq"):
        flip = {">": "<", r"\geq": r"\leq"}
        sides, signs = sides[::-1], [flip.get(sign, "?") for sign in signs[::-1]]
    if any(sign not in ("<", r"\leq") for sign in signs):
        if signs == [r"\neq"]:
            return _unequal(*sides)
        raise Unreadable("a chain of relations points both ways")
    is_name = [_is_name(side) for side in sides]
    leaves = [read_leaf(side) for side in sides]
    if len(sides) == 3 and is_name[1]:
        return _interval(leaves[0], leaves[2], signs[0] == "<", signs[1] == "<")
    if len(sides) != 2:
        raise Unreadable("a chain of relations has no variable in its middle")
    if is_name[0] and not leaves[1].has_variable:
        return Interval(_MINUS_INFINITE, leaves[1], True, signs[0] == "<")
    if is_name[1] and not leaves[0].has_variable:
        return Interval(leaves[0], _INFINITE, signs[0] == "<", True)
    return Relation("<" if signs[0] == "<" else "<=", *leaves)


def _interval(low: Leaf, high: Leaf, is_low_open: bool, is_high_open: bool) -> Interval:
    ends = low.value, high.value
    if ends[0] is not None and ends[1] is not None and (ends[0], 0) > (ends[1], -(is_low_open or is_high_open)):
        raise Unreadable("an interval without members")
    return Interval(low, high, is_low_open, is_high_open)


def _unequal(left: str, right: str) -> Form:
    leaves = read_leaf(left), read_leaf(right)
    if _is_name(left) and not leaves[1].has_variable:
        return _without(leaves[1])
    return Relation("!=", *leaves)


def _without(point: Leaf) -> Collection:
    parts = Interval(_MINUS_INFINITE, point, True, True), Interval(point, _INFINITE, True, True)
    return Collection("union", parts)


def _enclosed(opening: str, inside: str, closing: str, depth: int) -> Form | None:
    """Return a set, a tuple, an interval; None for brackets of arithmetic."""
    if opening == "{" and closing == "}":
        return _read(inside, depth + 1)
    members = split_list(inside) if inside else []
    if opening == "\\{" and closing == "\\}":
        bars, _ = split_at(inside, frozenset("|:"))
        if len(bars) == 2 and re.fullmatch(rf"{_SYMBOL}(?:\s*\\in\s*\\mathbb\{{R\}})?", bars[0]):
            return _read(bars[1], depth + 1)
        return Collection("set", _flat(members, depth)) if members else Words(r"\emptyset")
    if len(members) < 2:
        return None
    if opening == r"\langle" or (opening == "(" and closing == ")"):
        return Collection("tuple", _flat(members, depth))
    if opening == "[" and closing == "]":
        return Collection("brackets", _flat(members, depth))
    if len(members) == 2 and opening in "([]" and closing in ")][":
        low, high = (read_signed(member) for member in members)
        if isinstance(low, Leaf) and isinstance(high, Leaf):
            return _interval(low, high, opening in "(]", closing in ")[")
    raise Unreadable(f"brackets {opening}...{closing} are not scored")


def _special(text: str, depth: int) -> Form | None:
    if text == r"\emptyset":
        return Words(text)
    if text == r"\mathbb{R}":
        return _REALS
    if text in (r"\mathbb{Z}", r"\mathbb{N}", r"\mathbb{Q}", r"\mathbb{C}"):
        return Words(text)
    pieces, signs = split_at(text, frozenset([r"\setminus", r"\backslash", "-"]))
    if len(pieces) == 2 and pieces[0] == r"\mathbb{R}" and signs:
        removed = _read(pieces[1], depth + 1)
        if isinstance(removed, Collection) and removed.kind == "set" and len(removed.parts) == 1:
            point = removed.parts[0]
            if isinstance(point, Leaf):
                return _without(point)
    return None


def _matrix(name: str, body: str, depth: int) -> Matrix:
    if name == "array":
        body = re.sub(r"^\s*\{[^{}]*\}", "", body)
    lines = [line for line in re.split(r"\\\\(?:\[[0-9.]*[a-z]{2}\])?", body) if line.strip()]
    rows = tuple(tuple(_read(cell, depth + 1) for cell in line.split("&")) for line in lines)
    if not rows or len({len(row) for row in rows}) != 1:
        raise Unreadable("a matrix has rows of different lengths")
    return Matrix(rows)


def _is_name(text: str) -> bool:
    text = text.strip()
    return _NAME.fullmatch(text) is not None and not _NO_NAME.match(text)
