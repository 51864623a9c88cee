r"""Values of numerals: literals, quotients and powers as exact rationals, bounded before anything evaluates them.

`exact` reads the spellings of one number and `rational` the trees of expressions; both get their numbers here.
"""

import re
from fractions import Fraction

from trm_envs.scoring.items import Unreadable

MAX_BITS = 20_000
_REPEATING = re.compile(r"([0-9]*)\.([0-9]*)\\overline\{([0-9]+)\}")


def literal(text: str) -> Fraction:
    """Return the value of an integer or a decimal, with or without separators of thousands."""
    return Fraction(text.replace(",", "").replace(" ", "").rstrip("."))


def repeating(text: str) -> Fraction | None:
    r"""Return the value of a repeating decimal such as `0.1\overline{6}`; None for any other text."""
    match = _REPEATING.fullmatch(text)
    if match is None:
        return None
    # 0.1\overline{6} is 0.1 and 6/9 of its last place
    last_place = Fraction(1, 10 ** len(match[2]))
    return (int(match[1] + match[2] or "0") + Fraction(int(match[3]), 10 ** len(match[3]) - 1)) * last_place


def quotient(upper: Fraction | None, lower: Fraction | None) -> Fraction | None:
    """Return upper / lower; None if a side has no value or the lower one is zero."""
    return upper / lower if upper is not None and lower else None


def raised(base: Fraction | None, exponent: Fraction | None) -> Fraction | None:
    """Return base to a whole exponent; None if a side has no value or the power is undefined.

    Raises:
        Unreadable: if the power is too large to write down.
    """
    if base is None or exponent is None or exponent.denominator != 1 or (base == 0 and exponent <= 0):
        return None
    if num_bits(base) * abs(exponent) > MAX_BITS:
        raise Unreadable(f"a power has more than {MAX_BITS} bits")
    return base ** int(exponent)


def num_bits(value: Fraction) -> int:
    """Return the bits that a power of the value needs for each unit of its exponent."""
    return max(value.numerator.bit_length(), value.denominator.bit_length()) if abs(value) != 1 else 0
