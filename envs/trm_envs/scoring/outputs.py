r"""Compare a program's output with the expected one, as LiveCodeBench's grader does.

White space at both ends of the output and of each line does not count; blank lines between others do. A line that
differs as text is compared as decimal numbers, one by one and exactly: `5.0` is `5`, and 50000000000000001 is not
50000000000000000. A task whose answers are real numbers states a tolerance.
"""

import math
import re
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation, Overflow, localcontext

MAX_TOLERANCE = 0.1
_ERROR_BOUND = re.compile(
    r"(?:absolute|relative)\s+(?:or\s+(?:absolute|relative)\s+)?(?:error|difference)"
    r"[^.?!]{0,120}?(?:10\s*\^?\s*\{?\s*[-\u2212]\s*(?P<power>[0-9]{1,2})\s*\}?|1?[eE][-\u2212](?P<exponent>[0-9]{1,2}))",
    re.IGNORECASE,
)


def same_output(output: str, expected: str, tolerance: float | None = None) -> bool:
    """Return True if two outputs agree line by line.

    Args:
        output: the program's output.
        expected: the right output.
        tolerance: the largest error of a number, absolute or relative to the expected one; None compares exactly.
    """
    lines, others = _lines(output), _lines(expected)
    if len(lines) != len(others):
        return False
    pairs = zip(lines, others, strict=True)
    return all(line == other or _same_numbers(line, other, tolerance) for line, other in pairs)


def stated_tolerance(question: str) -> float | None:
    r"""Return the error that a problem's text allows, such as 1e-6 for "relative error of at most $10^{-6}$"."""
    match = _ERROR_BOUND.search(question.replace("\\", " ").replace("$", " "))
    return float(f"1e-{match['power'] or match['exponent']}") if match else None


def check_tolerance(field: str, value: object) -> float:
    """Return the tolerance if it is in range.

    Raises:
        ValueError: unless it is a number above 0 and at most `MAX_TOLERANCE`.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not 0 < value <= MAX_TOLERANCE:  # type: ignore[operator]
        raise ValueError(f'field "{field}": {value!r}; expected a number above 0, at most {MAX_TOLERANCE}; e.g. 1e-6')
    return float(value)  # type: ignore[arg-type]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n")]


def _same_numbers(line: str, other: str, tolerance: float | None) -> bool:
    words, others = line.split(), other.split()
    if len(words) != len(others):
        return False
    try:
        pairs = zip(_decimals(words), _decimals(others), strict=True)
        return all(_is_close(number, expected, tolerance) for number, expected in pairs)
    except (InvalidOperation, Overflow):  # not a number, or a NaN that signals
        return False


def _decimals(words: Iterable[str]) -> Iterable[Decimal]:
    return (Decimal(word) for word in words)


def _is_close(number: Decimal, expected: Decimal, tolerance: float | None) -> bool:
    if number == expected:
        return True
    if tolerance is None or not (number.is_finite() and expected.is_finite()):
        return False
    with localcontext() as context:
        context.prec = 60
        return abs(number - expected) <= Decimal(str(tolerance)) * max(Decimal(1), abs(expected))
