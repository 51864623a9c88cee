r"""The program of one worker process: JSON lines in, JSON lines out, one batch of comparisons per line.

Run as a file, not as a module: it imports math-verify's grammar and nothing of `trm_envs`, so that a worker starts
quickly. It gets LaTeX that the gate wrote, never a model's own text, and evaluates nothing as Python.

Two expressions are compared by value, at points where they have variables, with more digits than their numerals could
hide a difference in.
"""

import functools
import json
import os
import re
import resource
import signal
import sys
from collections.abc import Sequence
from typing import Any

MAX_MEMORY_BYTES = 2 * 2**30
# A worker whose parent is gone ends itself once it has exceeded the deadline by this much.
GRACE_S = 1.0
GUARD_DIGITS = 20
MIN_DIGITS = 40
MAX_DIGITS = 8000
CACHE_SIZE = 4096
# Numerators and denominators of the points; signs are varied.
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71)
# Greek letters stand for names of several letters while the grammar reads, which is slow to read subscripts.
_NAME = re.compile(r"v_\{[0-9]+\}")
_STANDINS = (
    "alpha",
    "beta",
    "delta",
    "zeta",
    "eta",
    "theta",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "rho",
    "sigma",
    "tau",
)
NUM_POINTS = 6
MIN_POINTS = 2
# Whole numbers near and far, with both signs: a floor, an absolute value or a root of a square may differ only there.
_FAR = (17, 143, 100_003)


def main() -> None:
    """Answer requests until standard input closes."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a stray print cannot forge a reply
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import latex2sympy2_extended  # noqa: F401
    import math_verify  # noqa: F401

    _send(replies, {"ready": True})
    for line in requests:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, request["deadline_s"] + GRACE_S)  # SIGPROF kills: no handler is set
        try:
            reply: dict[str, Any] = {"verdicts": [compare(pair) for pair in request["pairs"]]}
        except BaseException as error:
            reply = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        _send(replies, reply)


def compare(pair: list[str]) -> bool:
    """Return True if the two sides of a pair are equal; see `judge.Pair`.

    Raises:
        Exception: if a side cannot be read or has no value.
    """
    digits = int(pair[3] if pair[0] == "equal" else pair[5])
    precision = min(MAX_DIGITS, MIN_DIGITS + GUARD_DIGITS + 2 * digits)
    if pair[0] == "equal":
        return _equal(pair[1], pair[2], precision, pair[4])
    return _proportional(pair[0], f"{pair[1]}\n{pair[2]}", f"{pair[3]}\n{pair[4]}", precision)


def _equal(left: str, right: str, precision: int, tolerance: str) -> bool:
    import mpmath

    num_valid = 0
    names = tuple(sorted({*_names(left), *_names(right)}))
    for point in _points(names, left, right):
        one, other = (_value(side, names, point, precision) for side in (left, right))
        if (one is None) != (other is None):
            return False
        if one is None or other is None:
            continue
        num_valid += 1
        if tolerance:
            if not (mpmath.isfinite(one) and mpmath.isfinite(other)):
                return bool(one == other)
            numerator, _, denominator = tolerance.partition("/")
            bound = mpmath.mpf(int(numerator)) / int(denominator or 1)
            if abs(one - other) > bound:
                return False
        elif not _agree(one, other, precision):
            return False
    if num_valid < (MIN_POINTS if names else 1):
        raise ValueError("it has no value")
    return True


def _points(names: tuple[str, ...], *sides: str) -> Sequence[int]:
    """Return the points of comparison: one without variables, both signs of one variable, all patterns of more."""
    near = range((1, 3)[len(names)] if len(names) < 2 else NUM_POINTS)
    if not names or not any(map(_has_kink, sides)) or any(map(_grows_fast, sides)):
        return near
    return [*near, *range(NUM_POINTS, NUM_POINTS + 2 * len(_FAR))]


@functools.lru_cache(maxsize=CACHE_SIZE)
def _has_kink(text: str) -> bool:
    """Return True for an expression that follows one formula at some numbers and another at others."""
    import sympy

    expression = _parse(text)
    if expression.has(sympy.Abs, sympy.floor, sympy.ceiling, sympy.Max, sympy.Min, sympy.sign):
        return True
    return any(power.exp.is_Rational and not power.exp.is_Integer for power in _powers(expression))


@functools.lru_cache(maxsize=CACHE_SIZE)
def _grows_fast(text: str) -> bool:
    """Return True for an expression with a variable in an exponent or under a factorial: too large at large numbers."""
    import sympy

    expression = _parse(text)
    is_power = any(power.exp.free_symbols or abs(power.exp) > 100 for power in _powers(expression))
    return is_power or expression.has(sympy.factorial, sympy.binomial, sympy.exp, sympy.gamma)


def _powers(expression: Any) -> list[Any]:
    import sympy

    return [power for power in expression.atoms(sympy.Pow) if power.free_symbols]


def _proportional(sign: str, left: str, right: str, precision: int) -> bool:
    """Return True if two relations are equivalent: the differences of their sides are in a constant ratio."""
    import mpmath

    names = tuple(sorted({*_names(left), *_names(right)}))
    ratios = []
    for point in _points(names, left, right):
        one, other = (_value(side, names, point, precision) for side in (left, right))
        if (one is None) != (other is None):
            return False
        if one is not None and other is not None and one != 0:
            with mpmath.workdps(precision):
                ratios.append(other / one)
    if len(ratios) < MIN_POINTS or not all(_agree(ratios[0], ratio, precision) for ratio in ratios):
        return False
    is_nonzero = abs(ratios[0]) > mpmath.mpf(10) ** (-precision // 2)
    return bool(is_nonzero and (sign in ("=", "!=") or mpmath.re(ratios[0]) > 0))


def _agree(one: Any, other: Any, precision: int) -> bool:
    import mpmath

    if one == other or not (mpmath.isfinite(one) and mpmath.isfinite(other)):
        return bool(one == other)
    with mpmath.workdps(precision):
        size = max(abs(one), abs(other), mpmath.mpf(10) ** (-(precision - MIN_DIGITS) // 2))
        return bool(abs(one - other) <= size * mpmath.mpf(10) ** (GUARD_DIGITS // 2 - precision + precision // 4))


@functools.lru_cache(maxsize=CACHE_SIZE)
def _names(text: str) -> tuple[str, ...]:
    return tuple(sorted({symbol.name for symbol in _parse(text).free_symbols}))


@functools.lru_cache(maxsize=CACHE_SIZE)
def _value(text: str, names: tuple[str, ...], point: int, precision: int) -> Any:
    """Return the value of an expression at a point as an mpmath number; None if it has none there."""
    import mpmath
    import sympy

    expression = _parse(text)
    if expression.free_symbols:
        values = {name: _coordinate(place, point) for place, name in enumerate(names)}
        expression = expression.subs({symbol: values[symbol.name] for symbol in expression.free_symbols})
    if expression.has(sympy.oo):
        expression = expression.doit()
    if expression in (sympy.oo, -sympy.oo):
        return mpmath.mpf("inf") if expression == sympy.oo else mpmath.mpf("-inf")
    if expression.has(sympy.zoo, sympy.nan, sympy.oo):
        return None
    number = expression.evalf(precision, maxn=2 * precision + 200)
    if not number.is_number or number.has(sympy.zoo, sympy.nan, sympy.oo):
        return None
    real, imaginary = number.as_real_imag()
    with mpmath.workdps(precision):
        parts = [part.evalf(precision)._to_mpmath(mpmath.mp.prec) for part in (real, imaginary)]
        return mpmath.mpc(*parts)


def _coordinate(place: int, point: int) -> Any:
    """Return a rational number of its own for each variable and point, with every pattern of signs of two variables."""
    import sympy

    if point >= NUM_POINTS:
        size = _FAR[(point - NUM_POINTS) // 2] * (place + 1) + place
        return sympy.Integer(-size if (point + place) % 2 else size)
    number = sympy.Rational(
        _PRIMES[(3 * place + 7 * point + 1) % 20], _PRIMES[(5 * place + 2 * point + 4) % 20] + 1 + place
    )
    return -number if point >> (place % 3) & 1 and point < NUM_POINTS - 1 else number


@functools.lru_cache(maxsize=CACHE_SIZE)
def _parse(text: str) -> Any:
    """Return the expression that a text of the gate denotes; two lines are the difference of two sides."""
    import sympy

    left, newline, right = text.partition("\n")
    if newline:
        return _parse(left) - _parse(right)
    if text.startswith("="):
        return sympy.Rational(text[1:])
    expression = _read(text)
    if not isinstance(expression, sympy.Expr):
        raise ValueError("it is no expression")
    expression = expression.xreplace(
        {symbol: sympy.I for symbol in expression.free_symbols if symbol.name == "i"}
        | {symbol: sympy.E for symbol in expression.free_symbols if symbol.name == "e"}
    )
    if expression.has(sympy.Sum, sympy.Product, sympy.Integral, sympy.Limit):
        expression = expression.doit()
    return expression


def _read(text: str) -> Any:
    """Return the expression that math-verify's grammar reads, with names of several letters restored."""
    import sympy

    names = list(dict.fromkeys(_NAME.findall(text)))
    if len(names) > len(_STANDINS):
        raise ValueError("it has too many variables")
    for name, standin in zip(names, _STANDINS, strict=False):
        text = text.replace(name, f"\\{standin} ")
    # A fraction cannot be a set, so the first of the grammar's two ways of reading it succeeds.
    try:
        expression = _reader(is_fast=True).parse(rf"\frac{{{text}}}{{1}}")
    except Exception:  # a refusal of the fast reader decides nothing; an error of the other is the answer's failure
        expression = _reader(is_fast=False).parse(text)
    back = dict(zip(_STANDINS, names, strict=False))
    symbols = [symbol for symbol in expression.free_symbols if symbol.name in back]
    return expression.xreplace({symbol: sympy.Symbol(back[symbol.name], real=True) for symbol in symbols})


def _reader(is_fast: bool) -> Any:
    """Return math-verify's reader of LaTeX; the fast one looks at the tokens alone and refuses some texts."""
    kind, config = _reader_kind(is_fast)
    return kind(is_real=True, config=config)


@functools.cache
def _reader_kind(is_fast: bool) -> Any:
    from antlr4.atn.PredictionMode import PredictionMode
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, _Latex2Sympy

    class Fast(_Latex2Sympy):
        def create_parser(self, latex_str: str) -> Any:
            parser = super().create_parser(latex_str)
            parser._interp.predictionMode = PredictionMode.SLL
            return parser

    config = ConversionConfig(lowercase_symbols=False, interpret_as_mixed_fractions=False)
    return (Fast if is_fast else _Latex2Sympy), config


def _send(replies: Any, reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply).encode() + b"\n")
    replies.flush()


if __name__ == "__main__":
    del sys.path[0]  # this folder: its file names are not top-level modules
    main()
