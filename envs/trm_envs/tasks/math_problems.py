"""Generated math problems: stories of computations on one number n, each on the last one's result.

Every kind of step is a function of n and a random generator that returns the question in words and as Python, and the
result. Results stay from 2 to 5000, so that a late step looks like an early one, however long the story.
"""

import functools
import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

LEAST, MOST = 2, 5000
FRACTION_EVERY = 4


@dataclass(frozen=True)
class Step:
    """One computation on n."""

    text: str
    """Question as a noun phrase about n."""
    code: str
    """The same as a Python expression of n; it may use math, functools and Fraction."""
    value: int | Fraction
    """The result."""


@dataclass(frozen=True)
class Story:
    """A start value and steps, each on the result of the one before."""

    start: int
    steps: tuple[Step, ...]

    @property
    def question(self) -> str:
        """Return the problem in words."""
        if len(self.steps) == 1:
            return f"Let n = {self.start}. Find {self.steps[0].text}."
        lines = [f"Start with n = {self.start}. Each step gives n a new value, computed from the present one."]
        lines += [f"{number}. The new n is {step.text}." for number, step in enumerate(self.steps, 1)]
        return "\n".join([*lines, f"What is n after step {len(self.steps)}?"])

    @property
    def answer(self) -> str:
        """Return the last result, such as 12 or 3/4."""
        return str(self.steps[-1].value)

    def code(self, number: int) -> str:
        """Return the Python code of one step; it takes n as the step before has left it."""
        lines = [f"n = {self.steps[number].code}", "print(n)"]
        if number == 0:
            lines = ["import functools", "import math", "from fractions import Fraction", f"n = {self.start}", *lines]
        return "\n".join(lines)


Draw = Callable[[int, np.random.Generator], Step]


def draw_story(rng: np.random.Generator, horizon: int, fractions: bool = True) -> Story:
    """Draw a story of `horizon` steps; with `fractions`, the last step of one story in four may give a fraction."""
    n = start = _pick(rng, LEAST, MOST)
    steps: list[Step] = []
    while len(steps) < horizon:
        is_last = len(steps) == horizon - 1
        if is_last and fractions and rng.integers(FRACTION_EVERY) == 0:
            steps.append(_FRACTIONS[int(rng.integers(len(_FRACTIONS)))](n, rng))
            break
        step = _INTEGERS[int(rng.integers(len(_INTEGERS)))](n, rng)
        if LEAST <= step.value <= MOST:
            steps.append(step)
            n = int(step.value)
    return Story(start, tuple(steps))


def _pick(rng: np.random.Generator, least: int, most: int) -> int:
    return int(rng.integers(least, most + 1))


def _divisors(n: int, rng: np.random.Generator) -> Step:
    k, more = _pick(rng, 2, 12), _pick(rng, 10, 2000)
    code = f"sum({k} * n % i == 0 for i in range(1, {k} * n + 1)) + {more}"
    root = math.isqrt(k * n)
    count = 2 * sum(k * n % i == 0 for i in range(1, root + 1)) - (root * root == k * n)
    return Step(f"the number of positive divisors of {k}n, plus {more}", code, count + more)


@functools.lru_cache(maxsize=1)
def _primes() -> tuple[int, ...]:
    return tuple(p for p in range(2, MOST + 1) if all(p % q for q in range(2, math.isqrt(p) + 1)))


def _prime_count(n: int, rng: np.random.Generator) -> Step:
    times, more = _pick(rng, 2, 5), _pick(rng, 10, 999)
    code = f"{times} * sum(all(p % q for q in range(2, math.isqrt(p) + 1)) for p in range(2, n + 1)) + {more}"
    text = f"{times} times the number of primes that are at most n, plus {more}"
    return Step(text, code, times * bisect_right(_primes(), n) + more)


def _coprime_count(n: int, rng: np.random.Generator) -> Step:
    more = _pick(rng, 10, 999)
    text = f"the number of integers from 1 to n that have no common divisor with n but 1, plus {more}"
    code = f"sum(math.gcd(i, n) == 1 for i in range(1, n + 1)) + {more}"
    return Step(text, code, sum(math.gcd(i, n) == 1 for i in range(1, n + 1)) + more)


def _gcd(n: int, rng: np.random.Generator) -> Step:
    other, more = 60 * _pick(rng, 2, 160), _pick(rng, 10, 2000)
    text = f"the greatest common divisor of n and {other}, plus {more}"
    return Step(text, f"math.gcd(n, {other}) + {more}", math.gcd(n, other) + more)


def _lcm(n: int, rng: np.random.Generator) -> Step:
    other, modulus = 12 * _pick(rng, 2, 80), _pick(rng, 1000, MOST)
    text = f"the remainder when the least common multiple of n and {other} is divided by {modulus}"
    return Step(text, f"math.lcm(n, {other}) % {modulus}", math.lcm(n, other) % modulus)


def _power(n: int, rng: np.random.Generator) -> Step:
    exponent, modulus = _pick(rng, 10, 999), _pick(rng, 1000, MOST)
    text = f"the remainder when n to the power {exponent} is divided by {modulus}"
    return Step(text, f"pow(n, {exponent}, {modulus})", pow(n, exponent, modulus))


def _digit_sum(n: int, rng: np.random.Generator) -> Step:
    exponent, times = _pick(rng, 5, 40), _pick(rng, 2, 9)
    text = f"{times} times the sum of the decimal digits of n to the power {exponent}"
    return Step(text, f"{times} * sum(map(int, str(n ** {exponent})))", times * sum(map(int, str(n**exponent))))


def _binary_ones(n: int, rng: np.random.Generator) -> Step:
    exponent, times = _pick(rng, 5, 40), _pick(rng, 2, 19)
    text = f"{times} times the number of ones in the binary form of n to the power {exponent}"
    return Step(text, f'{times} * bin(n ** {exponent}).count("1")', times * bin(n**exponent).count("1"))


def _reverse(n: int, rng: np.random.Generator) -> Step:
    more = _pick(rng, 10, 999)
    text = f"the number whose decimal digits are those of n in reverse order, plus {more}"
    return Step(text, f"int(str(n)[::-1]) + {more}", int(str(n)[::-1]) + more)


def _trailing_zeros(n: int, rng: np.random.Generator) -> Step:
    times, more = _pick(rng, 2, 4), _pick(rng, 10, 999)
    text = f"{times} times the number of zeros at the end of n factorial, plus {more}"
    code = f"{times} * sum(n // 5 ** i for i in range(1, 6)) + {more}"
    return Step(text, code, times * sum(n // 5**i for i in range(1, 6)) + more)


def _committee(n: int, rng: np.random.Generator) -> Step:
    chosen, more, modulus = _pick(rng, 3, 6), _pick(rng, 6, 20), _pick(rng, 1000, MOST)
    text = (
        f"the remainder, after division by {modulus}, of the number of ways to choose {chosen} members of a club that "
        f"has {more} members and as many more as the remainder of n divided by 17"
    )
    code = f"math.comb({more} + n % 17, {chosen}) % {modulus}"
    return Step(text, code, math.comb(more + n % 17, chosen) % modulus)


def _league(n: int, rng: np.random.Generator) -> Step:
    teams, divisor = _pick(rng, 4, 20), _pick(rng, 21, 49)
    text = (
        f"the number of games in a league where each team plays each other team twice, with {teams} teams and as many "
        f"more as the remainder of n divided by {divisor}"
    )
    count = teams + n % divisor
    return Step(text, f"({teams} + n % {divisor}) * ({teams} + n % {divisor} - 1)", count * (count - 1))


def _eggs(n: int, rng: np.random.Generator) -> Step:
    percent, shops = 5 * _pick(rng, 1, 19), _pick(rng, 2, 40)
    text = (
        f"the number of whole eggs that each of {shops} shops gets when a farm fills n boxes with 20 eggs each, "
        f"{percent}% of all eggs break and the shops share the rest evenly, rounded down"
    )
    code = f"n * 20 * (100 - {percent}) // 100 // {shops}"
    return Step(text, code, n * 20 * (100 - percent) // 100 // shops)


def _arithmetic(n: int, rng: np.random.Generator) -> Step:
    difference, terms, modulus = _pick(rng, 3, 99), _pick(rng, 10, 200), _pick(rng, 1000, MOST)
    text = (
        f"the remainder when the sum of the first {terms} terms of the arithmetic sequence n, n + {difference}, "
        f"n + {2 * difference}, ... is divided by {modulus}"
    )
    code = f"sum(n + {difference} * i for i in range({terms})) % {modulus}"
    return Step(text, code, (terms * n + difference * terms * (terms - 1) // 2) % modulus)


def _recurrence(n: int, rng: np.random.Generator) -> Step:
    factor, more, index, modulus = _pick(rng, 3, 30), _pick(rng, 1, 99), _pick(rng, 5, 60), _pick(rng, 1000, MOST)
    text = (
        f"term number {index} of the sequence whose first term is n and whose every other term is the remainder of "
        f"{factor} times the term before it plus {more}, divided by {modulus}"
    )
    code = f"functools.reduce(lambda term, _: ({factor} * term + {more}) % {modulus}, range({index - 1}), n)"
    value = functools.reduce(lambda term, _: (factor * term + more) % modulus, range(index - 1), n)
    return Step(text, code, value)


def _multiples(n: int, rng: np.random.Generator) -> Step:
    one, two, times = _pick(rng, 2, 9), _pick(rng, 10, 30), _pick(rng, 2, 5)
    text = f"{times} times the number of integers from 1 to {times}n that {one} or {two} divides"
    limit = times * n
    code = f"{times} * sum(i % {one} == 0 or i % {two} == 0 for i in range(1, {times} * n + 1))"
    return Step(text, code, times * (limit // one + limit // two - limit // math.lcm(one, two)))


def _both_red(n: int, rng: np.random.Generator) -> Step:
    blue = _pick(rng, 2, 99)
    text = f"the probability that two balls, drawn without putting back from {blue} blue ones and n red ones, are red"
    value = Fraction(n * (n - 1), (n + blue) * (n + blue - 1))
    return Step(text, f"Fraction(n * (n - 1), (n + {blue}) * (n + {blue} - 1))", value)


def _pipes(n: int, rng: np.random.Generator) -> Step:
    other = _pick(rng, 2, 999)
    text = f"the minutes that two pipes together take to fill a tank if one alone takes n minutes and one {other}"
    return Step(text, f"Fraction(n * {other}, n + {other})", Fraction(n * other, n + other))


def _geometric(n: int, rng: np.random.Generator) -> Step:
    ratio = _pick(rng, 2, 30)
    text = f"the sum of the infinite series n + n/{ratio} + n/{ratio**2} + ..."
    return Step(text, f"Fraction(n * {ratio}, {ratio - 1})", Fraction(n * ratio, ratio - 1))


def _discount(n: int, rng: np.random.Generator) -> Step:
    up, down = _pick(rng, 2, 60), _pick(rng, 2, 60)
    text = f"a price of n that first rises by {up}% and then falls by {down}%, exactly"
    code = f"Fraction(n * (100 + {up}) * (100 - {down}), 10000)"
    return Step(text, code, Fraction(n * (100 + up) * (100 - down), 10000))


_INTEGERS: tuple[Draw, ...] = (
    _divisors, _prime_count, _coprime_count, _gcd, _lcm, _power, _digit_sum, _binary_ones, _reverse, _trailing_zeros,
    _committee, _league, _eggs, _arithmetic, _recurrence, _multiples,
)  # fmt: skip
_FRACTIONS: tuple[Draw, ...] = (_both_red, _pipes, _geometric, _discount)
