"""What operations an expression holds between its numerals, and its exact value where it is rational.

An unevaluated operation is the question, not the answer: a numeric truth takes from an answer only the operations that
it has itself. Powers are bounded here, before anything evaluates them.
"""

import math
from dataclasses import dataclass, field
from fractions import Fraction

from trm_envs.scoring.items import FAMILIES, Item, Row, Unreadable

MAX_BITS = 20_000
MAX_FACTORIAL = 5000
MAX_EXPONENT = 100_000
_GROUPS = {"|": "abs", "\\lfloor": "round", "\\lceil": "round"}


@dataclass
class Census:
    """The operations, constants and variables of an expression."""

    kinds: set[str] = field(default_factory=set)
    """Operations by kind; one whose operands hold no variable ends in "#"."""
    has_variable: bool = False
    """True if a letter stands for a number."""
    digits: int = 0
    """Decimal digits that suffice to tell apart values written with these numerals."""


def take_census(row: Row) -> Census:
    """Count the operations of an expression.

    Raises:
        Unreadable: if a number in it is too large to write down, or a part has no meaning.
    """
    census = Census()
    _walk(row, census)
    return census


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
    return _sum(row) if is_numeral(row) else None


def _sum(row: Row) -> Fraction | None:
    term: list[Item] = []
    total, sign = Fraction(0), 1
    pending = list(row)
    while pending and pending[0].kind == "operator" and pending[0].name in "+-":
        sign = -sign if pending.pop(0).name == "-" else sign
    for item in [*pending, Item("operator", "+")]:
        if item.kind == "operator" and item.name in "+-" and term and term[-1].kind != "operator":
            value = _product(term)
            if value is None:
                return None
            total += sign * value
            term, sign = [], -1 if item.name == "-" else 1
        else:
            term.append(item)
    return total if not term else None


def _product(term: list[Item]) -> Fraction | None:
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
            exponent = _sum(item.rows[0])
            if factor is None or exponent is None or exponent.denominator != 1:
                return None
            factor = _raise(factor, int(exponent))
        elif item.kind == "factorial":
            if factor is None or factor.denominator != 1 or factor < 0:
                return None
            factor = Fraction(_factorial(int(factor)))
        else:
            operand = _operand(item)
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
    return value / factor if factor else None


def _operand(item: Item) -> Fraction | None:
    if item.kind == "number":
        return Fraction(item.name.rstrip("."))
    if item.kind == "mixed":
        numerator, denominator = (int(row[0].name) for row in item.rows)
        return int(item.name) + Fraction(numerator, denominator)
    if item.kind == "group":
        inside = _sum(item.rows[0])
        if inside is None or item.name in ("{", "(", "["):
            return inside
        if item.name == "|":
            return abs(inside)
        return Fraction(math.floor(inside) if item.name == "\\lfloor" else math.ceil(inside))
    upper, lower = (_sum(row) for row in item.rows)
    if upper is None or lower is None:
        return None
    if item.kind == "fraction":
        return upper / lower if lower else None
    if upper.denominator != 1 or lower.denominator != 1 or not 0 <= lower <= upper <= MAX_FACTORIAL:
        return None
    return Fraction(math.comb(int(upper), int(lower)))


def _raise(base: Fraction, exponent: int) -> Fraction | None:
    if base == 0 and exponent <= 0:
        return None
    if _bits(base) * abs(exponent) > MAX_BITS:
        raise Unreadable(f"a power has more than {MAX_BITS} bits")
    return base**exponent


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length()) if abs(value) != 1 else 0


def _factorial(number: int) -> int:
    if number > MAX_FACTORIAL:
        raise Unreadable(f"a factorial is above {MAX_FACTORIAL}!")
    return math.factorial(number)


def _walk(row: Row, census: Census) -> bool:
    """Count the operations of a row; return True if a variable stands in it."""
    has_variable = False
    numerals = roots = slashes = 0
    is_argument = False
    for place, item in enumerate(row):
        before = row[place - 1] if place else None
        if item.kind == "operator":
            is_argument = False
            if item.name in "+-":
                if before is not None and before.kind != "operator":
                    census.kinds.add("add")
                    numerals = roots = slashes = 0
            elif item.name == "/":
                slashes, numerals = slashes + 1, 0
                if slashes > 1:
                    census.kinds.add("div")
            continue
        has_inner = _walk_item(item, row, place, census)
        has_variable = has_variable or has_inner
        is_argument = is_argument or item.kind == "function"
        if _is_factor(item) and not is_argument and not _is_scientific(row, place):
            numerals += 1
            if numerals > 1:
                census.kinds.add("mul")
            if slashes and any(map(_is_quotient, row[place : place + 2])):
                census.kinds.add("div")
        roots += item.kind == "root"
        if roots > 1:
            census.kinds.add("mul of roots")
    census.has_variable = census.has_variable or has_variable
    return has_variable


def _is_factor(item: Item) -> bool:
    """Return True for a factor that is rational as it stands, also the root of a square."""
    if item.kind == "root":
        value = rational_value(item.rows[1])
        index = Fraction(2) if item.rows[0] is None else rational_value(item.rows[0])
        if value is None or index is None or index.denominator != 1 or not 1 <= index <= 64:
            return False
        return all(_is_power(abs(part), int(index)) for part in (value.numerator, value.denominator))
    return item.kind in ("number", "mixed", "fraction", "group", "binomial") and is_numeral((item,))


def _is_power(number: int, index: int) -> bool:
    root = round(number ** (1 / index)) if number < 2**50 else math.isqrt(number) if index == 2 else 0
    return any((root + step) ** index == number for step in (-1, 0, 1))


def _is_quotient(item: Item) -> bool:
    is_slash = item == Item("operator", "/")
    is_inverse = item.kind == "power" and item.rows[0][0] == Item("operator", "-")
    return (
        is_slash
        or is_inverse
        or item.kind == "fraction"
        or (item.kind == "group" and any(map(_is_quotient, item.rows[0])))
    )


def _is_scientific(row: Row, place: int) -> bool:
    r"""Return True for the 10 of 1.5\times10^{3}."""
    if row[place] != Item("number", "10") or not 2 <= place < len(row) - 1:
        return False
    is_times = row[place - 1] == Item("operator", "*") and row[place - 2].kind == "number"
    return is_times and row[place + 1].kind == "power" and (place < 3 or row[place - 3].kind == "operator")


def _walk_item(item: Item, row: Row, place: int, census: Census) -> bool:
    """Count one item; return True if it holds a variable."""
    inner = [_walk(part, census) for part in item.rows if part is not None] if item.kind != "big" else [False]
    has_variable = any(inner) or item.kind == "variable"
    mark = "" if has_variable else "#"
    if item.kind in ("number", "mixed"):
        census.digits += len(item.name) + sum(len(part[0].name) for part in item.rows)
    elif item.kind == "constant":
        census.kinds.add(item.name)
    elif item.kind == "group" and item.name in _GROUPS:
        census.kinds.add(_GROUPS[item.name] + mark)
    elif item.kind == "root":
        census.kinds.add("root")
    elif item.kind == "binomial":
        census.kinds.add("binomial" + mark)
        _check_small(item.rows[0])
    elif item.kind == "fraction" and is_numeral(item.rows[1]) and any(map(_is_quotient, item.rows[1])):
        census.kinds.add("div")
    elif item.kind == "power":
        _walk_power(row[place - 1], item.rows[0], census)
    elif item.kind == "factorial":
        has_operand = any(_holds_variable(part) for part in row[max(0, place - 1) : place])
        census.kinds.add("factorial" if has_operand else "factorial#")
        _check_small(row[max(0, place - 1) : place])
    elif item.kind == "function":
        is_closed = not any(map(_holds_variable, row[place + 1 :])) and item.name != "exp"
        census.kinds.add(FAMILIES[item.name] + ("#" if is_closed else ""))
    elif item.kind == "big":
        census.kinds.add(item.name)
    elif item.kind in ("comma", "relation"):
        census.kinds.add(item.kind)
    return has_variable


def _walk_power(base: Item, exponent: Row, census: Census) -> None:
    if any(part.kind == "power" for part in exponent):
        census.kinds.add("tower")
    value = rational_value(exponent)
    if value is None:
        return
    base_value = rational_value((base,)) if base.kind != "factorial" else Fraction(MAX_FACTORIAL)
    bits = _bits(base_value) if base_value is not None else 1
    if bits * abs(value) > MAX_BITS or abs(value) > MAX_EXPONENT or value.denominator > MAX_EXPONENT:
        raise Unreadable("a power is too large to write down")
    census.digits += int(bits * abs(value) * Fraction(302, 1000))
    if base.kind == "group" and base_value is None and abs(value) > MAX_FACTORIAL:
        raise Unreadable(f"an exponent of a sum is above {MAX_FACTORIAL}")


def _check_small(row: Row) -> None:
    value = rational_value(row)
    if value is not None and abs(value) > MAX_FACTORIAL:
        raise Unreadable(f"a factorial or binomial of {MAX_FACTORIAL} or more")


def _holds_variable(item: Item) -> bool:
    return item.kind == "variable" or any(_holds_variable(part) for row in item.rows if row for part in row)
