r"""Numbers in an answer, read and compared as exact rationals.

Reads integers, decimals, thousands (`1,000`, `1{,}000`, `1\,000`), fractions (`3/4`, `\frac{3}{4}`, `\frac34`),
mixed numbers, `0.1\overline{6}`, `1.5\times10^{3}`, `2e-9`, powers to an integer, percentages and the units of
`units.py`. Everything else, also tuples, intervals, sets and lists of numbers, is not guessed: None.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from trm_envs.scoring.extract import group_end
from trm_envs.scoring.items import Unreadable
from trm_envs.scoring.numerals import literal, quotient, raised, repeating
from trm_envs.scoring.spelling import clean
from trm_envs.scoring.units import Measure, read_unit, same_measure
from trm_envs.scoring.words import split_words, unit_of

MAX_CHARS = 1000
MAX_DEPTH = 12
_INTEGER = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[1-9][0-9]{0,2}(?: [0-9]{3})+|[0-9]+)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.[0-9]*)?|\.[0-9]+)"
_POWER = r"\^(?:\{([+-]?[0-9]+)\}|([+-]?[0-9]+))"
_LITERAL = re.compile(_DECIMAL)
_SCIENTIFIC = re.compile(rf"({_DECIMAL})(?:(?:\\times ?|\\cdot ?|\*)10{_POWER}|[eE]([+-]?[0-9]+))")
_RAISED = re.compile(rf"(\(.+\)|\{{.+\}}|{_DECIMAL}){_POWER}")
_MIXED = re.compile(r"([0-9]+)(?: ([0-9]+/[0-9]+)| ?(\\frac.*))")
_FRAC_DIGIT = re.compile(r" ?([0-9])")
# A space matters only between two letters or digits (3 1/2, 5 cm).
_IDLE_SPACE = re.compile(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])")
_DOLLAR = re.compile(r"([+-]?)\\?\$([+-]?)(?=[0-9.])")
_MARKS = {"%": "percent", "\\%": "percent", "^{\\circ}": "degree"}


@dataclass(frozen=True)
class Quantity:
    """An exact number with its unit."""

    value: Fraction
    """The number as written; 50 for 50%."""
    dimension: str = ""
    """The dimension of the unit, such as "length"; "" without a unit."""
    scale: Fraction = Fraction(1)
    """The unit's size in base units; 1/100 for a percentage or a centimetre."""


def compare_exact(answer: str, truth: str) -> bool | None:
    """Return whether two numbers are equal as rationals; None if either is not a number that can be read exactly.

    A unit is dropped where only one side has it. Where both have one, they are converted, and units of different
    dimensions are never equal. A percentage equals a bare number that is either its number or its hundredth, since a
    task that asks "what percentage?" may store either; an answer below 1 % equals its hundredth alone. The same holds
    for parts per thousand, million and billion, which equal their number below 1 too.
    """
    left, right = parse_quantity(answer), parse_quantity(truth)
    return None if left is None or right is None else equal_quantities(left, right)


def equal_quantities(left: Quantity, right: Quantity) -> bool:
    """Return whether an answer and a truth are equal; see `compare_exact` for units."""
    if same_measure(left.dimension, right.dimension):
        return left.value * left.scale == right.value * right.scale
    if left.dimension and right.dimension:
        return False
    is_part = (left.dimension, left.scale) == read_unit("percent") and abs(left.value) < 1
    if left.value == right.value and not is_part:
        return True
    return "percent" in (left.dimension, right.dimension) and left.value * left.scale == right.value * right.scale


def parse_quantity(text: str) -> Quantity | None:
    """Read one number with or without a unit; None if the text is anything else. Never raises, bounded in time."""
    return read_number(clean(text)) if len(text) <= MAX_CHARS else None


def read_number(text: str) -> Quantity | None:
    """Read one number of a text that is cleaned already; see `parse_quantity`."""
    if len(text) > MAX_CHARS or ", " in text or " ," in text:
        return None
    text = text.replace("{,}", ",")
    unit: Measure | None = ("", Fraction(1))
    money = _DOLLAR.match(text)
    if money is not None:
        text, unit = money[1] + money[2] + text[money.end() :], read_unit("dollars")
    elif (parts := _marked(text) or split_words(text)) is not None:
        text, unit = parts[0], unit_of(parts[1]) if parts[1] else unit
    try:
        value = _value(_IDLE_SPACE.sub("", text), 0) if unit is not None else None
    except Unreadable:
        return None
    return Quantity(value, *unit) if value is not None and unit is not None else None


def _marked(text: str) -> tuple[str, str] | None:
    """Split a percent sign or a degree mark from the text before it."""
    mark = next((mark for mark in ("\\%", "%", "^{\\circ}") if text.endswith(mark)), None)
    return (text[: -len(mark)].rstrip(), _MARKS[mark]) if mark is not None else None


def _value(text: str, depth: int) -> Fraction | None:
    """Return the number that the whole text denotes.

    Raises:
        Unreadable: if a power in it is too large to write down.
    """
    text = text.strip()
    if not text or depth > MAX_DEPTH:
        return None
    if text[0] in "+-":
        value = _value(text[1:], depth + 1)
        return -value if value is not None and text[0] == "-" else value
    if text.isascii() and text.isdigit():
        return Fraction(int(text))
    if _LITERAL.fullmatch(text):
        return literal(text)
    if (inner := _unwrapped(text)) is not None:
        return _value(inner, depth + 1)
    if text.startswith("\\frac"):
        return _fraction(text, depth)
    if (value := repeating(text)) is not None:
        return value
    if match := _SCIENTIFIC.fullmatch(text):
        power = raised(Fraction(10), Fraction(match[2] or match[3] or match[4]))
        return literal(match[1]) * power if power is not None else None
    if match := _MIXED.fullmatch(text):
        part = _value(match[2] or match[3], depth + 1)
        # 2\frac{3}{2} may be a product, and 2\frac{-1}{2} is neither.
        return int(match[1]) + part if part is not None and 0 <= part < 1 else None
    if "/" in text:
        numerator, _, denominator = text.rpartition("/")
        if _holds_quotient(denominator):
            return None
        return quotient(_value(numerator, depth + 1), _value(denominator, depth + 1))
    if match := _RAISED.fullmatch(text):
        return raised(_value(match[1], depth + 1), Fraction(match[2] or match[3]))
    return None


def _unwrapped(text: str) -> str | None:
    """Return the inside of brackets that enclose the whole text; None if none do or they may enclose a pair."""
    if text[0] == "{" and group_end(text, 0) == len(text) - 1:
        return text[1:-1]
    if text[0] == "(" and text[-1] == ")" and "(" not in text[1:] and "," not in text:
        return text[1:-1]
    return None


def _fraction(text: str, depth: int) -> Fraction | None:
    r"""Return the value of `\frac{a}{b}`, `\frac ab` and their mixtures."""
    position = len("\\frac")
    parts: list[Fraction | None] = []
    for _ in range(2):
        if match := _FRAC_DIGIT.match(text, position):
            parts.append(Fraction(match[1]))
            position = match.end()
            continue
        end = group_end(text, position) if text[position : position + 1] == "{" else None
        if end is None:
            return None
        if parts and _holds_quotient(text[position + 1 : end]):
            return None
        parts.append(_value(text[position + 1 : end], depth + 1))
        position = end + 1
    return quotient(parts[0], parts[1]) if position == len(text) else None


def _holds_quotient(denominator: str) -> bool:
    """Return True for a quotient below the line: 17/(1/23) is a product in disguise."""
    return any(sign in denominator for sign in ("/", "\\frac", "^-", "^{-", "e-", "E-"))
