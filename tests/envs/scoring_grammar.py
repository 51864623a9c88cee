r"""Draws of answers: a value, its truth as text, another spelling of it, and a spelling of another value.

What is equal is decided by the values (`Fraction`, tuples of them, multisets, polynomials as coefficients), never by
anything that reads text: a spelling is made from its value.
"""

import random
from collections.abc import Callable
from fractions import Fraction

from tests.envs.scoring_collections import intervals, lists, sets, tuples
from tests.envs.scoring_numbers import Draw, other, small, spell, spell_plain
from tests.envs.scoring_units import UNIT_CLASSES

WORDS = ["red", "Monday", "north", "the blue car", "even", "Alice", "isosceles", "cannot be determined", "increasing"]
NOUNS = ["apples", "students", "ways", "square units", "marbles", "people", "tickets", "days", "points", "boxes"]
CHANGING = [
    *("k", "M", "B", "i", "x", "dozen", "lakh", "score", "hundredths", "tenths", "thirds", "and a half", "factorial"),
    *("squared", "or 6", "less", "times", "negative", "minus one", "mod 7", "in base 7"),
]


def _times(rng: random.Random, value: Fraction, symbol: str) -> str:
    """Write a rational multiple of a symbol."""
    sign, upper, lower = ("-" if value < 0 else ""), abs(value.numerator), value.denominator
    head = "" if upper == 1 else str(upper)
    if lower == 1:
        return sign + rng.choice([f"{head}{symbol}", f"{upper}\\cdot {symbol}", f"{symbol}\\cdot {upper}"])
    return sign + rng.choice([f"\\frac{{{head}{symbol}}}{{{lower}}}", f"\\frac{{{upper}}}{{{lower}}}{symbol}"])


def radicals(rng: random.Random) -> Draw:
    """q * sqrt(n), n free of squares; sqrt(q^2 n) too."""
    radicand, factor = rng.choice([2, 3, 5, 6, 7, 10, 11, 13, 15]), small(rng)

    def write(value: Fraction, root: int) -> str:
        square = value * value * root
        ways = [
            _times(
                rng, value, rng.choice([f"\\sqrt{{{root}}}", f"\\sqrt {root} " if root < 10 else f"\\sqrt{{{root}}}"])
            )
        ]
        sign = "-" if value < 0 else ""
        if square.denominator == 1:
            ways += [f"{sign}\\sqrt{{{square.numerator}}}", f"{sign}{square.numerator}^{{1/2}}"]
        else:
            ways.append(f"{sign}\\sqrt{{\\frac{{{square.numerator}}}{{{square.denominator}}}}}")
        rationalised = abs(value) * root
        ways.append(f"{sign}\\frac{{{rationalised.numerator}}}{{{rationalised.denominator}\\sqrt{{{root}}}}}")
        return rng.choice(ways)

    wrong = rng.choice([(other(rng, factor), radicand), (factor, radicand + 6 if radicand + 6 != 9 else 14)])
    return write(factor, radicand), write(factor, radicand), write(*wrong)


def multiples(rng: random.Random) -> Draw:
    """q * pi, or q * e."""
    constants = ["\\pi", "e"]
    symbol, value = rng.choice(constants), small(rng)
    wrong = rng.choice([(other(rng, value), symbol), (value, constants[symbol == "\\pi"])])
    return _times(rng, value, symbol + " "), _times(rng, value, symbol + " "), _times(rng, wrong[0], wrong[1] + " ")


def complexes(rng: random.Random) -> Draw:
    def write(real: Fraction, imaginary: Fraction) -> str:
        i = rng.choice(["i", "\\mathrm{i}"])
        one, two = spell_plain(real), _times(rng, imaginary, i)
        if rng.random() < 0.5:
            return f"{one}{two}" if two.startswith("-") else f"{one}+{two}"
        return f"{two}{one}" if one.startswith("-") else f"{two}+{one}"

    real, imaginary = small(rng), small(rng)
    wrong = rng.choice([(real, -imaginary), (-real, imaginary), (other(rng, real), imaginary), (imaginary, real + 1)])
    return write(real, imaginary), write(real, imaginary), write(*wrong)


def expressions(rng: random.Random) -> Draw:
    """Products of two linear factors, factored or expanded, in one of many letters."""
    letter = rng.choice(["x", "y", "n", "t", "m", "h", "a", "\\theta ", "x_1", "E", "d"])

    def write(a: int, b: int, c: int, d: int) -> str:
        if rng.random() < 0.5:
            return f"({a}{letter}{b:+d})({c}{letter}{d:+d})"
        terms = [f"{a * c}{letter}^2", f"{a * d + b * c}{letter}", f"{b * d}"]
        rng.shuffle(terms)
        return "".join(term if term.startswith("-") or not place else f"+{term}" for place, term in enumerate(terms))

    a, b, c, d = (rng.choice([-1, 1]) * rng.randint(1, 9) for _ in range(4))
    return (
        write(a, b, c, d),
        write(a, b, c, d),
        write(*rng.choice([(a, b, c, d + 11), (a + 10, b, c, d), (-a, b, c, -d - 10)])),
    )


def equations(rng: random.Random) -> Draw:
    """y = a x + b, and multiples of it."""
    a, b = rng.choice([-1, 1]) * rng.randint(1, 9), rng.choice([-1, 1]) * rng.randint(1, 9)

    def write(a: int, b: int) -> str:
        return rng.choice(
            [f"y={a}x{b:+d}", f"{a}x{b:+d}=y", f"y-{a}x={b}" if a > 0 else f"y+{-a}x={b}", f"{2 * a}x-2y{2 * b:+d}=0"]
        )

    return f"y={a}x{b:+d}", write(a, b), write(*rng.choice([(a + 10, b), (a, b + 20), (-a, b)]))


def units(rng: random.Random) -> Draw:
    """A number with a word that may be dropped, and one with a word that may not."""
    value = small(rng)
    text = spell_plain(value)
    if rng.random() < 0.5:
        wrong = f"{text}\\text{{ {rng.choice(CHANGING)}}}"
    else:
        wrong = f"{spell_plain(value + 1)}\\text{{ {rng.choice(NOUNS)}}}"
    return text, f"{text}{rng.choice([' ', '~', ''])}\\text{{ {rng.choice(NOUNS)}}}", wrong


def texts(rng: random.Random) -> Draw:
    word, wrong = rng.sample(WORDS, 2)

    def write(word: str) -> str:
        return rng.choice(
            [
                f"\\text{{{word}}}",
                word,
                f"\\text{{ {word} }}",
                f"$\\text{{{word}}}$",
                f"{word.upper()}.",
                f"\\textbf{{{word}}}",
            ]
        )

    return write(word), write(word), write(wrong)


def unevaluated(rng: random.Random) -> Draw:
    """A whole number; wrong is an operation that has its value."""
    one, two = rng.randint(2, 30), rng.randint(2, 30)
    way = rng.randrange(8)
    if way < 4:
        value = one * two
        wrong = [
            f"{one}\\cdot {two}",
            f"{one}({two})",
            f"\\frac{{{one}}}{{\\frac{{1}}{{{two}}}}}",
            f"{one}\\times {two}",
        ][way]
    elif way < 6:
        value = one + two
        wrong = [f"{one}+{two}", f"{one + 2 * two}-{two}"][way - 4]
    else:
        value = one * (one + 1) // 2
        wrong = [f"\\sum_{{k=1}}^{{{one}}} k", f"\\binom{{{one + 1}}}{{2}}"][way - 6]
    return str(value), spell(rng, Fraction(value)), wrong


CLASSES: dict[str, Callable[[random.Random], Draw]] = {
    "radicals": radicals,
    "multiples of pi and e": multiples,
    "complex": complexes,
    "expressions": expressions,
    "equations": equations,
    "lists": lists,
    "sets": sets,
    "tuples": tuples,
    "intervals": intervals,
    "units": units,
    "words": texts,
    "unevaluated": unevaluated,
    **UNIT_CLASSES,
}
