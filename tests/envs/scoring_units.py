"""Draws of numbers with units, temperatures, zero parts and conjunctions, for the grammar of answers."""

import random
from fractions import Fraction

from tests.envs.scoring_numbers import Draw, other, small, spell_plain

# dimension: {symbol: how many of the base unit}, written down here again, since the scorer's table is what is tested
SYMBOLS = {
    "length": {"m": Fraction(1), "cm": Fraction(1, 100), "km": Fraction(1000), "mm": Fraction(1, 1000)},
    "time": {"s": Fraction(1), "min": Fraction(60), "h": Fraction(3600)},
    "mass": {"g": Fraction(1), "kg": Fraction(1000), "mg": Fraction(1, 1000)},
}
NAMED = ["N", "J", "W", "V", "A", "Pa", "Hz", "mol", "kJ", "kN", "MPa", "nm", "eV", "K", "T", "mM", "Gy"]
CHANGING = ["dozen", "thousand", "million", "hundred", "k", "M", "B", "squared", "per dozen", "mod 7", "base 7"]
Factor = tuple[str, str, int]
"""A dimension, one of its symbols and its power."""


def _join(rng: random.Random, factors: list[Factor]) -> str:
    """Write a product of powers of units."""
    command = rng.choice(["\\text", "\\mathrm"])

    def power(number: int) -> str:
        return "" if number == 1 else rng.choice([f"^{number}", f"^{{{number}}}"]) if number > 0 else f"^{{{number}}}"

    above = [factor for factor in factors if factor[2] > 0]
    below = [factor for factor in factors if factor[2] < 0]
    way = rng.randrange(4)
    if way == 0:
        joint = rng.choice(["\\cdot", "\\,", " "])
        return joint.join(f"{command}{{{' ' * (not k)}{f[1]}}}{power(f[2])}" for k, f in enumerate(factors))
    if way == 1:
        return f"{command}{{ " + " ".join(f"{symbol}{power(number)}" for _, symbol, number in factors) + "}"
    if len(above) == len(below) == 1:
        one, two = (f"{command}{{{symbol}}}{power(abs(number))}" for _, symbol, number in (*above, *below))
        return rng.choice([f"\\,\\frac{{{one}}}{{{two}}}", f"\\,{one}/{two}"])
    return "\\,".join(f"{command}{{{symbol}}}{power(number)}" for _, symbol, number in factors)


def joined_units(rng: random.Random) -> Draw:
    """A number of a product of units; the answer may convert it, but may not change what it measures."""
    dimensions = rng.sample(list(SYMBOLS), rng.randint(1, 3))
    powers = [rng.choice([1, 1, 2, 3, -1, -2]) if k else rng.choice([1, 2]) for k in range(len(dimensions))]
    value = small(rng)

    def draw() -> tuple[list[Factor], Fraction]:
        factors = [(d, rng.choice(list(SYMBOLS[d])), power) for d, power in zip(dimensions, powers, strict=True)]
        scale = Fraction(1)
        for dimension, symbol, power in factors:
            scale *= SYMBOLS[dimension][symbol] ** power
        return factors, scale

    factors, scale = draw()
    truth = spell_plain(value) + _join(rng, factors)
    if rng.random() < 0.5:
        return spell_plain(value), truth, spell_plain(other(rng, value)) + _join(rng, factors)
    again, other_scale = draw()
    right = spell_plain(value * scale / other_scale) + _join(rng, again)
    changed = [(d, symbol, power + (power > 0) - (power < 0)) for d, symbol, power in factors]
    wrong = [spell_plain(value) + _join(rng, changed), spell_plain(value + 1) + _join(rng, factors)]
    return truth, right, rng.choice(wrong)


def named_units(rng: random.Random) -> Draw:
    """A number with the symbol of a unit, in text; the same letters bare, or words that change the value, are none."""
    value, symbol = small(rng), rng.choice(NAMED)
    text = spell_plain(value)
    command = rng.choice(["\\text", "\\mathrm"])
    right = f"{text}{rng.choice(['', '~', ' '])}{command}{{ {symbol}}}"
    bare = f"{text}{rng.choice([s for s in NAMED if len(s) == 1])}"
    wrong = rng.choice(
        [f"{text}\\text{{ {rng.choice(CHANGING)} {symbol}}}", bare, f"{spell_plain(-value)}\\text{{ {symbol}}}"]
    )
    return text, right, wrong


def parts_of(rng: random.Random) -> Draw:
    """A number in parts per hundred, thousand, million or billion, for the number or its part of one."""
    value = small(rng)
    while abs(value) < 1:
        value = small(rng)
    mark, scale = rng.choice(
        [("\\%", 2), ("\u2030", 3), ("\\text{ permille}", 3), ("\\text{ ppm}", 6), ("\\text{ parts per million}", 6)]
    )
    right = spell_plain(value) + mark
    changed = [value * 10, value + 1, -value]
    truth = rng.choice([spell_plain(value), spell_plain(value / 10**scale)])
    return truth, right, spell_plain(rng.choice(changed)) + mark


def temperatures(rng: random.Random) -> Draw:
    value, scales = small(rng), ["C", "F"]
    rng.shuffle(scales)

    def write(value: Fraction, scale: str) -> str:
        name = {"C": "Celsius", "F": "Fahrenheit"}[scale]
        marks = [f"^\\circ {scale}", f"^{{\\circ}}\\text{{{scale}}}", f"\u00b0{scale}", f"\\text{{\u00b0{scale}}}"]
        return spell_plain(value) + rng.choice([*marks, f"\\text{{ degrees {name}}}", f"^\\circ\\mathrm{{{scale}}}"])

    right = rng.choice([write(value, scales[0]), spell_plain(value), f"{spell_plain(value)}^\\circ"])
    wrong = rng.choice([write(value, scales[1]), write(other(rng, value), scales[0])])
    return write(value, scales[0]), right, wrong


def zero_parts(rng: random.Random) -> Draw:
    """A real or imaginary number with the other part written as zero."""
    number, whole = rng.randint(1, 40), rng.random() < 0.5
    sign = rng.choice(["", "-"])
    if whole:
        right = f"{sign}{number}" + rng.choice(["+0i", "-0i", "+0\\cdot i"])
        return (
            f"{sign}{number}",
            right,
            rng.choice([f"{sign}{number}+1i", f"{sign}{number}+0", f"0{sign or '+'}{number}"]),
        )
    truth, middle = f"{sign}{number}i", sign or "+"
    right = rng.choice([f"0{middle}{number}i", f"{sign}{number}i+0"])
    return truth, right, rng.choice([f"1{middle}{number}i", f"0{'+' if sign else '-'}{number}i", f"0{middle}{number}"])


def conjunctions(rng: random.Random) -> Draw:
    """An interval as two inequalities joined by "and"; "or", other signs and other ends make another set."""
    low = small(rng)
    high, opens = low + abs(small(rng)), (rng.random() < 0.5, rng.random() < 0.5)
    truth = f"{'[('[opens[0]]}{spell_plain(low)}, {spell_plain(high)}{'])'[opens[1]]}"

    def write(low: Fraction, high: Fraction, opens: tuple[bool, bool], word: str) -> str:
        less, more = ("<" if opens[1] else "\\leq "), (">" if opens[0] else "\\geq ")
        back, front = ("<" if opens[0] else "\\leq "), (">" if opens[1] else "\\geq ")
        lower = rng.choice([f"x{more}{spell_plain(low)}", f"{spell_plain(low)}{back}x"])
        upper = rng.choice([f"x{less}{spell_plain(high)}", f"{spell_plain(high)}{front}x"])
        parts = [lower, upper]
        rng.shuffle(parts)
        return word.join(parts)

    joints = ["\\text{ and }", " \\land ", " \\wedge ", " and "]
    wrongs = [
        (low, high, opens, "\\text{ or }"),
        (low, high, (not opens[0], opens[1]), joints[0]),
        (low - 1, high, opens, joints[0]),
        (low, high + 1, opens, rng.choice(joints)),
    ]
    return truth, write(low, high, opens, rng.choice(joints)), write(*rng.choice(wrongs))


def products_of_constants(rng: random.Random) -> Draw:
    """A multiple of pi, e or a root; wrong is a product of two numerals that has its value."""
    one, two, lower = rng.randint(2, 30), rng.randint(2, 30), rng.choice([3, 5, 7, 11])
    symbol = rng.choice(["\\pi ", "e", "\\sqrt{2}"])
    truth = f"\\frac{{{one * two}{symbol}}}{{{lower}}}"
    value = Fraction(one * two, lower)
    right = [
        f"\\frac{{{value.numerator}}}{{{value.denominator}}}{symbol}",
        f"{one * two}\\cdot\\frac{{{symbol}}}{{{lower}}}",
        f"\\frac{{{2 * one * two}{symbol}}}{{{2 * lower}}}",
    ]
    wrong = [
        f"{one}\\cdot\\frac{{{two}{symbol}}}{{{lower}}}",
        f"{one}\\left(\\frac{{{two}{symbol}}}{{{lower}}}\\right)",
        f"\\frac{{{one}{symbol}}}{{{lower}}}\\cdot {two}",
        f"\\frac{{{one}\\cdot {two}{symbol}}}{{{lower}}}",
    ]
    return truth, rng.choice(right), rng.choice(wrong)


UNIT_CLASSES = {
    "joined units": joined_units,
    "named units": named_units,
    "parts of": parts_of,
    "temperatures": temperatures,
    "zero parts": zero_parts,
    "conjunctions": conjunctions,
    "products of constants": products_of_constants,
}
