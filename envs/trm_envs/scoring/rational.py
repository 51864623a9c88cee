"""The exact value of an expression of numerals and arithmetic. Powers are bounded before anything evaluates them."""

import math
from collections.abc import Mapping
from fractions import Fraction

from trm_envs.scoring.items import Item, Row, Unreadable
from trm_envs.scoring.numerals import literal, quotient, raised

MAX_FACTORIAL = 5000
PI = Item("constant", "pi")
_BRACKETS = ("{", "(", "[")

Point = Mapping[str, Fraction]
"""Numbers for letters."""


def is_numeral(row: Row) -> bool:
    """Return True if the row holds numbers and arithmetic alone."""
    for item in row:
        if item.kind in ("number", "mixed", "operator", "factorial"):
            continue
        if item.kind not in ("group", "fraction", "power", "binomial"):
            return False
        if not all(is_numeral(inner) for inner in item.rows):
            return False
    return True


def rational_value(row: Row) -> Fraction | None:
    """Return the exact value of a row of numbers and arithmetic; None if it has none or holds anything else.

    Raises:
        Unreadable: if a number is too large to write down.
    """
    return _sum(row, {}) if is_numeral(row) else None


def is_function(row: Row) -> bool:
    """Return True for a quotient of polynomials, in letters and pi, of rational numbers."""
    for item in row:
        if item.kind in ("number", "mixed", "operator", "variable") or item == PI:
            continue
        is_nested = item.kind == "fraction" or (item.kind == "group" and item.name in _BRACKETS)
        if item.kind == "power" and not is_numeral(item.rows[0]):
            return False
        if item.kind != "power" and not (is_nested and all(map(is_function, item.rows))):
            return False
    return True


def names_of(row: Row) -> set[str]:
    """Return the letters of a row, and "pi" if it stands there."""
    inner = (names_of(part) for item in row for part in item.rows if part)
    return set().union(*inner, (item.name for item in row if item.kind == "variable" or item == PI))


def value_at(row: Row, point: Point) -> Fraction | None:
    """Return the exact value of such a function at a point; None if it has none there or cannot be read so.

    Raises:
        Unreadable: if a number is too large to write down.
    """
    return _sum(row, point)


def _sum(row: Row, point: Point) -> Fraction | None:
    term: list[Item] = []
    total, sign = Fraction(0), 1
    pending = list(row)
    while pending and pending[0].kind == "operator" and pending[0].name in "+-":
        sign = -sign if pending.pop(0).name == "-" else sign
    for item in [*pending, Item("operator", "+")]:
        if item.kind == "operator" and item.name in "+-" and term and term[-1].kind != "operator":
            value = _product(term, point)
            if value is None:
                return None
            total += sign * value
            term, sign = [], -1 if item.name == "-" else 1
        else:
            term.append(item)
    return total if not term else None


def _product(term: list[Item], point: Point) -> Fraction | None:
    value: Fraction | None = Fraction(1)
    factor: Fraction | None = None
    operator, has_operand = "*", False
    for item in term:
        if item.kind == "operator":
            if item.name in "+-":
                # 2\cdot-3: a sign of the factor
                if has_operand or item.name == "+":
                    return None
                value = -value if value is not None else None
                continue
            if factor is None:
                return None
            value, factor, operator, has_operand = _apply(value, factor, operator), None, item.name, False
            if value is None:
                return None
        elif item.kind == "power":
            factor = raised(factor, _sum(item.rows[0], {}))
        elif item.kind == "factorial":
            if factor is None or factor.denominator != 1 or factor < 0:
                return None
            factor = Fraction(_factorial(int(factor)))
        else:
            operand = _operand(item, point)
            if operand is None:
                return None
            if factor is not None:
                if operator == "/":
                    return None  # 1/2(3) may be 3/2 or 1/6
                value = value * factor if value is not None else None
            factor, has_operand = operand, True
        if factor is None and item.kind != "operator":
            return None
    return _apply(value, factor, operator) if factor is not None else None


def _apply(value: Fraction | None, factor: Fraction, operator: str) -> Fraction | None:
    if value is None:
        return None
    if operator == "*":
        return value * factor
    return quotient(value, factor)


def _operand(item: Item, point: Point) -> Fraction | None:
    if item.kind in ("variable", "constant"):
        return point.get(item.name)
    if item.kind == "number":
        return literal(item.name)
    if item.kind == "mixed":
        part = quotient(*(literal(row[0].name) for row in item.rows))
        return literal(item.name) + part if part is not None else None
    if item.kind == "group":
        inside = _sum(item.rows[0], point)
        if inside is None or item.name in _BRACKETS:
            return inside
        if item.name == "|":
            return abs(inside)
        return Fraction(math.floor(inside) if item.name == "\\lfloor" else math.ceil(inside))
    upper, lower = (_sum(row, point) for row in item.rows)
    if upper is None or lower is None:
        return None
    if item.kind == "fraction":
        return quotient(upper, lower)
    if upper.denominator != 1 or lower.denominator != 1 or not 0 <= lower <= upper <= MAX_FACTORIAL:
        return None
    return Fraction(math.comb(int(upper), int(lower)))


def _factorial(number: int) -> int:
    if number > MAX_FACTORIAL:
        raise Unreadable(f"a factorial is above {MAX_FACTORIAL}!")
    return math.factorial(number)
