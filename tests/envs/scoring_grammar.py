r"""Draws of answers: a value, its truth as text, another spelling of it, and a spelling of another value.

What is equal is decided by the values (`Fraction`, tuples of them, multisets, polynomials as coefficients), never by
anything that reads text: a spelling is made from its value.
"""

import random
from collections.abc import Callable, Sequence
from fractions import Fraction

Draw = tuple[str, str, str]
"""The truth, a right spelling and a wrong one."""
WORDS = ["red", "Monday", "north", "the blue car", "even", "Alice", "isosceles", "cannot be determined", "increasing"]
NOUNS = ["apples", "students", "ways", "square units", "marbles", "people", "tickets", "days", "points", "boxes"]
CHANGING = [
    *("k", "M", "B", "i", "x", "dozen", "lakh", "score", "hundredths", "tenths", "thirds", "and a half", "factorial"),
    *("squared", "or 6", "less", "times", "negative", "minus one", "mod 7", "in base 7"),
]


def number(rng: random.Random) -> Fraction:
    """Draw a value of one of many sizes."""
    kind = rng.randrange(6)
    if kind == 0:
        return Fraction(rng.randint(-20, 20))
    if kind == 1:
        return Fraction(rng.randint(-(10**6), 10**6))
    if kind == 2:
        return Fraction(rng.randint(-99, 99), rng.randint(1, 60))
    if kind == 3:
        return Fraction(rng.randint(-99999, 99999), 10 ** rng.randint(1, 6))
    if kind == 4:
        return Fraction(rng.choice([-1, 1]) * rng.randint(1, 9999)) * Fraction(10) ** rng.randint(-12, 12)
    return Fraction(rng.randint(-(10**30), 10**30), rng.choice([1, 1, 2**40, 3]))


def other(rng: random.Random, value: Fraction) -> Fraction:
    """Return a value that is another one, often a near one, and no hundredth or hundredfold of it."""
    changes: list[Callable[[Fraction], Fraction]] = [
        lambda x: x + 1,
        lambda x: x - 1,
        lambda x: -x,
        lambda x: 10 * x,
        lambda x: x / 10,
        lambda x: x + Fraction(1, 10**20),
        lambda x: 1 / x if x else Fraction(7),
        lambda x: Fraction(x.numerator + 1, x.denominator),
        lambda x: Fraction(x.numerator, x.denominator + 1),
    ]
    while True:
        changed = rng.choice(changes)(value)
        if changed not in (value, value / 100, value * 100):
            return changed


def _decimal(value: Fraction) -> str | None:
    """Return an exact decimal; None if there is none of at most 40 places."""
    for places in range(41):
        scaled = abs(value) * 10**places
        if scaled.denominator == 1:
            digits = str(scaled.numerator).rjust(places + 1, "0")
            text = f"{digits[: len(digits) - places]}.{digits[len(digits) - places :]}" if places else digits
            return ("-" if value < 0 else "") + text
    return None


def spell(rng: random.Random, value: Fraction) -> str:
    """Write a rational number in one of the promised spellings."""
    sign, size = ("-" if value < 0 else ""), abs(value)
    upper, lower, factor = size.numerator, size.denominator, rng.randint(1, 9)
    ways = [
        f"{sign}\\frac{{{upper * factor}}}{{{lower * factor}}}",
        f"{sign}\\dfrac{{{upper}}}{{{lower}}}",
        f"\\frac{{{sign}{upper * factor}}}{{{lower * factor}}}",
        f"{sign}{upper}/{lower}",
        f"{sign}{upper * factor} / {lower * factor}",
    ]
    if lower == 1:
        ways += [f"{sign}{upper}", f"{sign}{upper:,}", f"{sign}{upper}.0", f"{sign}{upper}.", f"({sign}{upper})"]
        ways += [f"{sign}{upper:,}".replace(",", "{,}"), f"{sign}{upper:,}".replace(",", "\\,")]
        zeros = len(str(upper)) - len(str(upper).rstrip("0"))
        if upper and zeros:
            ways.append(f"{sign}{upper // 10**zeros}\\times10^{{{zeros}}}")
    elif upper > lower:
        ways.append(f"{sign}{upper // lower}\\frac{{{upper % lower}}}{{{lower}}}")
        ways.append(f"{sign}{upper // lower} {upper % lower}/{lower}")
    if (decimal := _decimal(value)) is not None:
        ways += [decimal, decimal.replace("0.", ".", 1) if decimal.startswith(("0.", "-0.")) else decimal]
        power = rng.randint(-9, 9)
        mantissa = _decimal(value / Fraction(10) ** power)
        if mantissa is not None:
            times = rng.choice(["\\times ", " \\cdot ", "\\times"])
            ways.append(f"{mantissa}{times}10^{{{power}}}")
            ways.append(f"{mantissa}e{power}")
        if (percent := _decimal(value * 100)) is not None:
            ways.append(f"{percent}\\%")
    return _dress(rng, rng.choice(ways))


def _dress(rng: random.Random, text: str) -> str:
    """Add what changes nothing: dollars, a full stop, a name, spaces."""
    way = rng.randrange(10)
    if way == 0:
        return f"${text}$"
    if way == 1 and not text.endswith("."):
        return f"{text}."
    if way == 2:
        return f"x = {text}"
    if way == 3:
        return f" {text}\\ "
    if way == 4:
        return text.replace("-", "\u2212")
    return text


def exact(rng: random.Random) -> Draw:
    value = number(rng)
    return spell(rng, value), spell(rng, value), spell(rng, other(rng, value))


def small(rng: random.Random) -> Fraction:
    return Fraction(rng.choice([-1, 1]) * rng.randint(1, 30), rng.choice([1, 1, 1, 2, 3, 4, 5]))


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


def spell_plain(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    sign = "-" if value < 0 else ""
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


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


def lists(rng: random.Random) -> Draw:
    values = [small(rng) for _ in range(rng.randint(2, 5))]

    def write(values: Sequence[Fraction]) -> str:
        shuffled = [rng.choice([spell_plain(value), f"{value.numerator}/{value.denominator}"]) for value in values]
        rng.shuffle(shuffled)
        if len(shuffled) == 2:
            return rng.choice([", ", " \\text{ and } ", " \\text{ or } ", ","]).join(shuffled)
        return rng.choice([", ", ",\\ "]).join(shuffled)

    return write(values), write(values), write(_changed(rng, values))


def _changed(rng: random.Random, values: Sequence[Fraction]) -> list[Fraction]:
    """Return another multiset."""
    while True:
        made = list(values)
        way = rng.randrange(3)
        if way == 0:
            place = rng.randrange(len(made))
            made[place] = other(rng, made[place])
        elif way == 1:
            made.append(rng.choice(made))
        else:
            made[rng.randrange(len(made))] = rng.choice(made)
        if sorted(made) != sorted(values):
            return made


def sets(rng: random.Random) -> Draw:
    values = [small(rng) for _ in range(rng.randint(1, 5))]

    def write(values: Sequence[Fraction]) -> str:
        shuffled = [spell_plain(value) for value in values]
        shuffled += rng.choices(shuffled, k=rng.randint(0, 2))
        rng.shuffle(shuffled)
        return "\\{" + ", ".join(shuffled) + "\\}"

    wrong = values
    while set(wrong) == set(values):
        wrong = _changed(rng, values)
    return write(values), write(values), write(wrong)


def tuples(rng: random.Random) -> Draw:
    values = [small(rng) for _ in range(rng.randint(3, 5))]
    wrong = values
    while wrong == values:
        wrong = rng.sample(values, len(values)) if rng.random() < 0.5 else _changed(rng, values)

    def write(values: Sequence[Fraction]) -> str:
        inside = ", ".join(
            rng.choice([spell_plain(value), f"{value.numerator}/{value.denominator}"]) for value in values
        )
        return rng.choice([f"({inside})", f"\\left({inside}\\right)", f"( {inside} )."])

    return write(values), write(values), write(wrong)


def intervals(rng: random.Random) -> Draw:
    low = small(rng)
    high, marks = low + abs(small(rng)), (rng.random() < 0.5, rng.random() < 0.5)

    def write(low: Fraction, high: Fraction, opens: tuple[bool, bool]) -> str:
        one, two = spell_plain(low), spell_plain(high)
        less, less_too = (("<" if is_open else rng.choice(["\\leq ", "\\le ", "\u2264"])) for is_open in opens)
        more, more_too = ((">" if is_open else rng.choice(["\\geq ", "\\ge "])) for is_open in opens)
        brackets = f"{'[('[opens[0]]}{one}, {two}{'])'[opens[1]]}"
        chain = f"{one}{less}x{less_too}{two}"
        ways = [brackets, f"x\\in {brackets}", chain, f"{two}{more_too}x{more}{one}", f"\\{{x \\mid {chain}\\}}"]
        return rng.choice(ways)

    flipped = rng.choice([(not marks[0], marks[1]), (marks[0], not marks[1])])
    wrong = rng.choice([(low, high, flipped), (low - 1, high, marks), (low, high + 1, marks)])
    return write(low, high, marks), write(low, high, marks), write(*wrong)


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
}
