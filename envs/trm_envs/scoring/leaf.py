r"""Read a number or an expression, with the unit, words or base behind it."""

import dataclasses
import re
from fractions import Fraction

from trm_envs.scoring.census import take_census
from trm_envs.scoring.emit import emit
from trm_envs.scoring.exact import Quantity, read_number
from trm_envs.scoring.forms import Collection, Form, Leaf
from trm_envs.scoring.items import Item, Row, Unreadable
from trm_envs.scoring.rational import PI, is_function, rational_value
from trm_envs.scoring.tree import read_tree
from trm_envs.scoring.units import read_unit
from trm_envs.scoring.words import magnitude, may_be_dropped, split_words, unit_of

_BASED = re.compile(
    r"(?P<digits>[0-9][0-9A-Fa-f]*(?:\.[0-9]+)?|\([0-9]+\))\s*_\s*(?:\{\s*\(?(?:\\(?:text|mathrm)\{)?\s*(?P<base>\w+)\s*\}?\)?\s*\}|(?P<digit>[0-9]))"
)
_BASE_NAMES = dict(
    zip("two three four five six seven eight nine ten twelve sixteen".split(), [*range(2, 11), 12, 16], strict=True)  # noqa: SIM905
)
# Names that people write without a backslash, and words that are not products of letters.
_PLAIN_NAMES = re.compile(r"(?<![\\A-Za-z{])(sqrt|pi|sin|cos|tan|log|ln|exp)(?![A-Za-z])")
_SENTENCE = re.compile(r"(?<![\\A-Za-z])(?:[A-Za-z]{5,}|(?i:the|and|for|not|but|are|was|is|its|one|two))(?![A-Za-z}])")


_COMPOUND = re.compile(
    r"([0-9]+)\s*\\(?:text|mathrm)\s*\{\s*([a-z]+),?(?:\s+and)?\s*\}\s*([0-9]+(?:\.[0-9]+)?)\s*\\(?:text|mathrm)\s*\{\s*([a-z]+)\s*\}"
)


def read_signed(text: str) -> Form:
    r"""Return an expression; with \pm it is a list of two."""
    if r"\pm" not in text and r"\mp" not in text:
        return read_leaf(text)
    upper = text.replace(r"\pm", "+").replace(r"\mp", "-")
    lower = text.replace(r"\pm", "-").replace(r"\mp", "+")
    return Collection("list", (read_leaf(upper.strip().removeprefix("+")), read_leaf(lower)))


def read_leaf(text: str) -> Leaf:
    quantity = read_number(text)
    if quantity is not None:
        return Leaf(quantity.value, quantity)
    if (based := _BASED.fullmatch(text.strip())) is not None:
        base = based["base"] or based["digit"]
        return Leaf(suffix=f"base {_BASE_NAMES.get(base.lower(), base)}", latex=based["digits"].strip("()").lower())
    if text.startswith(r"\$") or text.endswith(r"\$"):
        return _money(text.removeprefix(r"\$").removesuffix(r"\$"))
    if (match := _COMPOUND.fullmatch(text)) is not None:
        return _compound(*match.groups())
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


def _money(text: str) -> Leaf:
    leaf = read_leaf(text)
    dimension = leaf.quantity.dimension if leaf.quantity is not None else leaf.unit[0] if leaf.unit is not None else ""
    if dimension and not all(part == "money" or "^-" in part for part in dimension.split("*")):
        raise Unreadable("it is money and has a unit too")
    return leaf


def _compound(many: str, large: str, few: str, small: str) -> Leaf:
    r"""Return a quantity in two units, the second a part of the first: `5\text{ hours and }30\text{ minutes}`."""
    units = read_unit(large), read_unit(small)
    if units[0] is None or units[1] is None or units[0][0] != units[1][0]:
        raise Unreadable("two numbers with different units stand in it")
    ratio, rest = units[1][1] / units[0][1], Fraction(few)
    if ratio >= 1 or rest * ratio >= 1:
        raise Unreadable("the smaller unit's number is a whole one of the larger")
    quantity = Quantity(int(many) + rest * ratio, *units[0])
    return Leaf(quantity.value, quantity, unit=units[0])


def _worded(text: str, words: str) -> Leaf:
    leaf = read_leaf(text)
    if leaf.suffix:
        raise Unreadable("two units stand behind it")
    many, _, counted = words.partition(" ")
    if (factor := magnitude(many)) is not None and (not counted or may_be_dropped(counted)):
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
    return (Item("number", "0"),) if _is_zero(row) else _without_pi(row)


def _holds_i(row: Row) -> bool:
    return Item("constant", "i") in row


def _is_zero(row: Row) -> bool:
    r"""Return True for zero and for zero times a constant: `0\pi`, `0i`, `0\cdot e`."""
    factors = [item for item in row if item != Item("operator", "*")]
    is_closed = all(item.kind == "constant" and item.name != "infty" for item in factors[1:])
    return bool(factors) and factors[0].kind == "number" and not float(factors[0].name) and is_closed


def _without_pi(row: Row) -> Row:
    r"""Return `5\pi/\pi` and `\frac{6\pi}{4\pi}` as a number or one fraction; any other row as it is.

    Only one numeral may stand above and one below, so that no product is worked out.
    """
    sides: tuple[list[Item], list[Item]] = ([], [])
    below = False
    for place, item in enumerate(row):
        if item == Item("operator", "/"):
            below = True
        elif item.kind == "fraction":
            for side, part in enumerate(item.rows):
                sides[side != below].extend(part)
        elif item != Item("operator", "*") or place in (0, len(row) - 1):
            sides[below].append(item)
            below = False
    numbers = [[item for item in side if item.kind == "number"] for side in sides]
    num_pi = [side.count(PI) for side in sides]
    is_plain = all(len(side) == len(some) + pis for side, some, pis in zip(sides, numbers, num_pi, strict=True))
    if not is_plain or num_pi[0] != num_pi[1] or not num_pi[0] or max(map(len, numbers)) > 1:
        return row
    one = [Item("number", "1")]
    return (Item("fraction", "", (tuple(numbers[0] or one), tuple(numbers[1] or one))),)


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
