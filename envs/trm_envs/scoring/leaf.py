r"""Read a number or an expression, with the unit, words or base behind it."""

import dataclasses
import re
from fractions import Fraction

from trm_envs.scoring.census import take_census
from trm_envs.scoring.emit import emit
from trm_envs.scoring.exact import Quantity, parse_quantity
from trm_envs.scoring.forms import Collection, Form, Leaf
from trm_envs.scoring.items import Item, Row, Unreadable
from trm_envs.scoring.rational import PI, is_function, rational_value
from trm_envs.scoring.tree import read_tree
from trm_envs.scoring.words import magnitude, may_be_dropped, split_words, unit_of

_BASED = re.compile(
    r"(?P<digits>[0-9][0-9A-Fa-f]*(?:\.[0-9]+)?|\([0-9]+\))\s*_\s*(?:\{\s*\(?(?:\\(?:text|mathrm)\{)?\s*(?P<base>\w+)\s*\}?\)?\s*\}|(?P<digit>[0-9]))"
)
_BASE_NAMES = dict(
    zip("two three four five six seven eight nine ten twelve sixteen".split(), [*range(2, 11), 12, 16], strict=True)  # noqa: SIM905
)
# Names that people write without a backslash, and what is no product of letters.
_PLAIN_NAMES = re.compile(r"(?<![\\A-Za-z{])(sqrt|pi|sin|cos|tan|log|ln|exp)(?![A-Za-z])")
_SENTENCE = re.compile(r"(?<![\\A-Za-z])(?:[A-Za-z]{5,}|(?i:the|and|for|not|but|are|was|is|its|one|two))(?![A-Za-z}])")


def read_signed(text: str) -> Form:
    r"""Return an expression; with \pm it is a list of two."""
    if r"\pm" not in text and r"\mp" not in text:
        return read_leaf(text)
    upper = text.replace(r"\pm", "+").replace(r"\mp", "-")
    lower = text.replace(r"\pm", "-").replace(r"\mp", "+")
    return Collection("list", (read_leaf(upper.strip().removeprefix("+")), read_leaf(lower)))


def read_leaf(text: str) -> Leaf:
    quantity = parse_quantity(text)
    if quantity is not None:
        return Leaf(quantity.value, quantity)
    if (based := _BASED.fullmatch(text.strip())) is not None:
        base = based["base"] or based["digit"]
        return Leaf(suffix=f"base {_BASE_NAMES.get(base.lower(), base)}", latex=based["digits"].strip("()").lower())
    if text.startswith(r"\$"):
        return read_leaf(text[2:])
    if text.endswith(r"\$"):
        return read_leaf(rf"{text[:-2]}\text{{ dollars}}")
    if (parts := split_words(text)) is not None:
        return _worded(*parts)
    for mark in (r"^{\circ}", r"\%", "%"):
        if text.endswith(mark) and (mark != r"^{\circ}" or not re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", text)):
            rest = text[: -len(mark)].rstrip()
            if rest.endswith(mark):
                raise Unreadable(f"{mark} stands twice behind it")
            leaf = read_leaf(rest)
            return leaf if mark == r"^{\circ}" else dataclasses.replace(leaf, suffix="%")
    return _expression(text)


def _worded(text: str, words: str) -> Leaf:
    leaf = read_leaf(text)
    if leaf.suffix:
        raise Unreadable("two units stand behind it")
    if (factor := magnitude(words)) is not None:
        return leaf.scaled(factor)
    if may_be_dropped(words):
        unit = unit_of(words)
        quantity = leaf.quantity and Quantity(leaf.quantity.value, *(unit or ("", Fraction(1))))
        return dataclasses.replace(leaf, unit=unit, quantity=quantity)
    return dataclasses.replace(leaf, suffix=words.lower() if len(words) > 1 else words)


def _reduced(row: Row) -> Row:
    r"""Return the row without the zero part of a complex number, `0-i` or `3+0i`, and without pi above and below."""
    cut = next((k for k in range(1, len(row)) if row[k].kind == "operator" and row[k].name in "+-"), None)
    if cut is not None and not any(item.kind == "operator" and item.name in "+-" for item in row[cut + 1 :]):
        first, second = row[:cut], row[cut:]
        if _holds_i(first) != _holds_i(second):
            if _is_zero(first):
                return second
            if _is_zero(second[1:]):
                return first
    if len(row) == 1 and row[0].kind == "fraction" and all(_is_multiple_of_pi(part) for part in row[0].rows):
        one = (Item("number", "1"),)
        upper, lower = (tuple(item for item in part if item.kind == "number") or one for part in row[0].rows)
        return (Item("fraction", "", (upper, lower)),)
    return row


def _holds_i(row: Row) -> bool:
    return Item("constant", "i") in row


def _is_zero(row: Row) -> bool:
    factors = [item for item in row if item != Item("operator", "*")]
    is_named = all(item == Item("constant", "i") for item in factors[1:])
    return bool(factors) and factors[0].kind == "number" and not float(factors[0].name) and is_named


def _is_multiple_of_pi(row: Row) -> bool:
    return row[-1] == PI and (len(row) == 1 or (len(row) == 2 and row[0].kind == "number"))


def _expression(text: str) -> Leaf:
    text = _PLAIN_NAMES.sub(r"\\\1 ", text)
    if _SENTENCE.search(text):
        raise Unreadable("words stand in it; give the final answer alone")
    row = _reduced(read_tree(text))
    census = take_census(row)
    value = rational_value(row)
    return Leaf(
        value,
        None,
        emit(row),
        frozenset(census.kinds),
        census.has_variable,
        census.digits,
        row=row if is_function(row) else (),
    )
