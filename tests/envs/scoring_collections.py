"""Draws of collections of numbers and of intervals, for the grammar of answers."""

import random
from collections.abc import Sequence
from fractions import Fraction

from tests.envs.scoring_numbers import Draw, other, small, spell_plain


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
