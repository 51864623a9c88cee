"""Count the operations of an expression between its numerals.

An unevaluated operation is the question, not the answer: where the truth is a number, an answer may hold only the
operations that the truth holds itself. Powers are bounded here, before anything evaluates them.
"""

import math
from dataclasses import dataclass, field
from fractions import Fraction

from trm_envs.scoring.items import FAMILIES, Item, Row, Unreadable
from trm_envs.scoring.numerals import MAX_BITS, num_bits
from trm_envs.scoring.rational import MAX_FACTORIAL, is_numeral, rational_value

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


def _walk(row: Row, census: Census) -> bool:
    """Count the operations of a row; return True if a variable stands in it."""
    has_variable = False
    numerals = roots = slashes = sums = nested = 0
    counted = _Numerals()
    is_argument = False
    for place, item in enumerate(row):
        before = row[place - 1] if place else None
        if item.kind == "operator":
            is_argument = False
            if item.name in "+-":
                if before is not None and before.kind != "operator":
                    census.kinds.add("add")
                    numerals = roots = slashes = sums = nested = 0
                    counted = _Numerals()
            elif item.name == "/":
                slashes, numerals = slashes + 1, 0
                if slashes > 1:
                    census.kinds.add("div")
            continue
        has_inner = _walk_item(item, row, place, census)
        has_variable = has_variable or has_inner
        is_argument = is_argument or item.kind == "function"
        is_factor = _is_factor(item) and not _is_surd(row, place) and not _is_scientific(row, place)
        if is_factor and not is_argument:
            numerals += 1
            if numerals > 1:
                census.kinds.add("mul")
            if slashes and any(map(_is_quotient, row[place : place + 2])):
                census.kinds.add("div")
        if not is_argument and counted.exceed_one(row, place):
            census.kinds.add("mul")
        if _is_sum(item):
            sums += 1 + (_integer_power(row, place) not in (None, -1, 0, 1))
            if sums > 1:
                census.kinds.add("mul of sums")
        nested += _holds_surd(item)
        if nested and nested + numerals + roots > 1:
            census.kinds.add("mul of surds")
        roots += item.kind == "root"
        if roots > 1:
            census.kinds.add("mul of roots")
    census.has_variable = census.has_variable or has_variable
    return has_variable


class _Numerals:
    r"""Counts of the numerals in one term's factors: \frac{17\pi}{2}\cdot 23 has 17 and 23 above the line, 2 below."""

    def __init__(self) -> None:
        self.above = self.below = 0

    def exceed_one(self, row: Row, place: int) -> bool:
        """Count a factor of the row; return True if there are two numerals above or two denominators."""
        above, below = _numerals(row, place)
        if place and row[place - 1] == Item("operator", "/"):
            above, below = below, above
        self.above += above
        self.below += bool(below)
        return self.above > 1 or self.below > 1


def _numerals(row: Row, place: int) -> tuple[int, int]:
    """Return the number of numerals that one factor has above its fraction lines, and below them."""
    item = row[place]
    if _is_surd(row, place) or _is_scientific(row, place):
        return 0, 0
    if item.kind == "fraction":
        (above, below), (over, under) = map(_numerals_of, item.rows)
        return above + under, below + over
    if item.kind == "group" and item.name not in _GROUPS:
        return _numerals_of(item.rows[0])
    return int(_is_factor(item)), 0


def _numerals_of(row: Row) -> tuple[int, int]:
    if any(item.kind == "operator" and item.name in "+-" for item in row[1:]):
        return int(is_numeral(row)), 0
    total = [0, 0]
    for place in range(len(row)):
        is_divided = place > 0 and row[place - 1] == Item("operator", "/")
        for side, count in enumerate(_numerals(row, place)):
            total[side != is_divided] += count
    return total[0], total[1]


def _is_factor(item: Item) -> bool:
    """Return True for a factor that is rational as it stands; the root of a square is one."""
    if item.kind == "root":
        value = rational_value(item.rows[1])
        index = Fraction(2) if item.rows[0] is None else rational_value(item.rows[0])
        if value is None or index is None or index.denominator != 1 or not 1 <= index <= 64:
            return False
        return all(_is_power(abs(part), int(index)) for part in (value.numerator, value.denominator))
    return item.kind in ("number", "mixed", "fraction", "group", "binomial") and is_numeral((item,))


def _holds_surd(item: Item) -> bool:
    r"""Return True for a fraction or brackets with a root inside: 17\sqrt{2}\cdot\frac{23}{\sqrt{2}} is 17\cdot 23."""
    return item.kind in ("fraction", "group") and any(
        part.kind == "root" or _holds_surd(part) for row in item.rows for part in row
    )


def _is_sum(item: Item) -> bool:
    """Return True for a sum in brackets without variables that is not rational: (1+i), (2-\\sqrt{3})."""
    if item.kind != "group" or item.name in _GROUPS or _holds_variable(item) or is_numeral((item,)):
        return False
    inner = item.rows[0]
    return any(part.kind == "operator" and part.name in "+-" for part in inner[1:]) or any(map(_is_sum, inner))


def _integer_power(row: Row, place: int) -> int | None:
    """Return the integer exponent of the item at a place; None if it has no exponent or one that is not an integer."""
    value = _exponent(row, place)
    return int(value) if value is not None and value.denominator == 1 else None


def _exponent(row: Row, place: int) -> Fraction | None:
    is_raised = place + 1 < len(row) and row[place + 1].kind == "power"
    return rational_value(row[place + 1].rows[0]) if is_raised else None


def _is_surd(row: Row, place: int) -> bool:
    r"""Return True for a root written as a power: the 3 of 2\cdot 3^{1/2}, but not the 4 of 4^{1/2}."""
    exponent, base = _exponent(row, place), rational_value((row[place],))
    if exponent is None or base is None or not 1 < exponent.denominator <= 64:
        return False
    return not all(_is_power(abs(part), exponent.denominator) for part in (base.numerator, base.denominator))


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
    elif item.kind == "fraction" and _holds_surd(item) and any(map(_is_quotient, item.rows[1])):
        census.kinds.add("mul of surds")
    elif item.kind == "power":
        _walk_power(row[place - 1], item.rows[0], census)
    elif item.kind == "factorial":
        has_operand = any(_holds_variable(part) for part in row[max(0, place - 1) : place])
        census.kinds.add("factorial" if has_operand else "factorial#")
        _check_small(row[max(0, place - 1) : place])
    elif item.kind == "function":
        is_closed = not any(map(_holds_variable, row[place + 1 :])) and item.name != "exp"
        if item.name in ("gcd", "lcm") or (FAMILIES[item.name] == "pick" and not is_closed):
            raise Unreadable(f"\\{item.name} is not scored; give its value")
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
    bits = num_bits(base_value) if base_value is not None else 1
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
