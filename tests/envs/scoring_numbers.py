"""Numbers and their spellings, for the grammar of answers."""

import random
from collections.abc import Callable
from fractions import Fraction

Draw = tuple[str, str, str]
"""The truth, a right spelling and a wrong one."""


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
    # every prime of the denominator must be one of ten's, and costs as many places as it has there
    rest, powers = value.denominator, {2: 0, 5: 0}
    for prime in powers:
        while rest % prime == 0:
            rest, powers[prime] = rest // prime, powers[prime] + 1
    places = max(powers.values())
    if rest != 1 or places > 40:
        return None
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    text = f"{digits[: len(digits) - places]}.{digits[len(digits) - places :]}" if places else digits
    return ("-" if value < 0 else "") + text


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


def spell_plain(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    sign = "-" if value < 0 else ""
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
