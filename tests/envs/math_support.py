"""Shared by the tests of math environments: a reader that solves generated problems from their words, and a fake
sandbox for code that the tests trust."""

import contextlib
import io
import itertools
import math
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from types import SimpleNamespace

import pytest

from trm_envs.sandbox import Result, Status

# Slow and simple on purpose, and written from the words: counting where the generator has a formula.
READINGS: list[tuple[str, Callable[..., int | Fraction]]] = [
    (
        r"the number of positive divisors of (\d+)n, plus (\d+)",
        lambda n, k, c: sum(k * n % i == 0 for i in range(1, k * n + 1)) + c,
    ),
    (
        r"(\d+) times the number of primes that are at most n, plus (\d+)",
        lambda n, k, c: k * sum(all(i % j for j in range(2, math.isqrt(i) + 1)) for i in range(2, n + 1)) + c,
    ),
    (
        r"the number of integers from 1 to n that have no common divisor with n but 1, plus (\d+)",
        lambda n, c: n - len({i for p in prime_factors(n) for i in range(p, n + 1, p)}) + c,
    ),
    (
        r"the greatest common divisor of n and (\d+), plus (\d+)",
        lambda n, k, c: max(i for i in range(1, n + 1) if n % i == 0 and k % i == 0) + c,
    ),
    (
        r"the remainder when the least common multiple of n and (\d+) is divided by (\d+)",
        lambda n, k, m: next(i for i in itertools.count(n, n) if i % k == 0) % m,
    ),
    (r"the remainder when n to the power (\d+) is divided by (\d+)", lambda n, e, m: n**e % m),
    (
        r"(\d+) times the sum of the decimal digits of n to the power (\d+)",
        lambda n, k, e: k * sum(int(digit) for digit in f"{n**e}"),
    ),
    (
        r"(\d+) times the number of ones in the binary form of n to the power (\d+)",
        lambda n, k, e: k * f"{n**e:b}".count("1"),
    ),
    (
        r"the number whose decimal digits are those of n in reverse order, plus (\d+)",
        lambda n, c: int("".join(reversed(f"{n}"))) + c,
    ),
    (
        r"(\d+) times the number of zeros at the end of n factorial, plus (\d+)",
        lambda n, k, c: k * sum(exponent_of_five(i) for i in range(1, n + 1)) + c,
    ),
    (
        r"the remainder, after division by (\d+), of the number of ways to choose (\d+) members of a club that has "
        r"(\d+) members and as many more as the remainder of n divided by (\d+)",
        lambda n, m, k, c, d: math.factorial(c + n % d) // math.factorial(k) // math.factorial(c + n % d - k) % m,
    ),
    (
        r"the number of games in a league where each team plays each other team twice, with (\d+) teams and as many "
        r"more as the remainder of n divided by (\d+)",
        lambda n, c, d: len(list(itertools.permutations(range(c + n % d), 2))),
    ),
    (
        r"the number of whole eggs that each of (\d+) shops gets when a farm fills n boxes with 20 eggs each, (\d+)% "
        r"of all eggs break and the shops share the rest evenly, rounded down",
        lambda n, s, p: math.floor(20 * n * (1 - Fraction(p, 100)) / s),
    ),
    (
        r"the remainder when the sum of the first (\d+) terms of the arithmetic sequence n, n \+ (\d+), n \+ \d+, ... "
        r"is divided by (\d+)",
        lambda n, k, d, m: sum(range(n, n + k * d, d)) % m,
    ),
    (
        r"term number (\d+) of the sequence whose first term is n and whose every other term is the remainder of (\d+) "
        r"times the term before it plus (\d+), divided by (\d+)",
        lambda n, i, a, c, m: n if i == 1 else (a * solve_recurrence(n, i - 1, a, c, m) + c) % m,
    ),
    (
        r"(\d+) times the number of integers from 1 to (\d+)n that (\d+) or (\d+) divides",
        lambda n, k, t, a, b: k * len({*range(a, t * n + 1, a), *range(b, t * n + 1, b)}),
    ),
    (
        r"the probability that two balls, drawn without putting back from (\d+) blue ones and n red ones, are red",
        lambda n, b: Fraction(n, n + b) * Fraction(n - 1, n + b - 1),
    ),
    (
        r"the minutes that two pipes together take to fill a tank if one alone takes n minutes and one (\d+)",
        lambda n, k: 1 / (Fraction(1, n) + Fraction(1, k)),
    ),
    (
        r"the sum of the infinite series n \+ n/(\d+) \+ n/\d+ \+ ...",
        lambda n, r: n / (1 - Fraction(1, r)),
    ),
    (
        r"a price of n that first rises by (\d+)% and then falls by (\d+)%, exactly",
        lambda n, u, d: n * (1 + Fraction(u, 100)) * (1 - Fraction(d, 100)),
    ),
]


def solve_step(text: str, n: int) -> tuple[int, int | Fraction]:
    """Return which reading fits a step's words, and its result for n."""
    fitting = [(i, match) for i, (words, _) in enumerate(READINGS) if (match := re.fullmatch(words, text))]
    assert len(fitting) == 1, text
    number, match = fitting[0]
    return number, READINGS[number][1](n, *map(int, match.groups()))


def solve_question(text: str) -> tuple[list[int], int | Fraction]:
    """Return which readings a generated problem took, and its answer."""
    if short := re.fullmatch(r"Let n = (\d+)\. Find (.+)\.", text):
        number, value = solve_step(short[2], int(short[1]))
        return [number], value
    first, *lines, last = text.split("\n")
    value = int(re.match(r"Start with n = (\d+)\.", first)[1])
    assert last == f"What is n after step {len(lines)}?"
    numbers = []
    for position, line in enumerate(lines, 1):
        number, value = solve_step(line.removeprefix(f"{position}. The new n is ")[:-1], value)
        numbers.append(number)
    return numbers, value


def prime_factors(n: int) -> list[int]:
    """The primes that divide n."""
    return [p for p in range(2, n + 1) if n % p == 0 and all(p % q for q in range(2, math.isqrt(p) + 1))]


def exponent_of_five(n: int) -> int:
    """Return the number of times that 5 divides n."""
    return 0 if n % 5 else 1 + exponent_of_five(n // 5)


def solve_recurrence(n: int, index: int, factor: int, more: int, modulus: int) -> int:
    """A term of the recurrence, counted up."""
    for _ in range(index - 1):
        n = (factor * n + more) % modulus
    return n


class FakeSession:
    """A fake session: it runs code in this process, so only what the tests trust."""

    def __init__(self) -> None:
        self.variables: dict = {}
        self.is_closed = False

    def run(self, code: str, limits: object = None) -> Result:
        """Run code with the variables of the calls before."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, self.variables)
        return Result(Status.OK, printed.getvalue())

    def close(self) -> None:
        """Note that the session is over."""
        self.is_closed = True


@pytest.fixture
def fake_sessions(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FakeSession]]:
    """Give environments fake sessions; the list holds those that were opened."""
    opened: list[FakeSession] = []

    def session() -> FakeSession:
        opened.append(FakeSession())
        return opened[-1]

    monkeypatch.setattr("trm_envs.python_tool.shared_sandbox", lambda name, pins: SimpleNamespace(session=session))
    return opened
