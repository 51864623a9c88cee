"""Draw small functions that build on each other, with their tests: the tasks of CodeTests without rows.

A stage asks for `f{i}(x)`, and from the second on it names the function before. `level="small"` has one operation per
stage, as a formula; `level="full"` describes the computation in words.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from trm_envs.scoring.outputs import same_output
from trm_envs.scoring.programs import ENDINGS, Case, CaseOutcome, CaseVerdict, hide_addresses

LEVELS = ("small", "full")
NUM_VISIBLE = 3
NUM_HIDDEN = 4
NUM_INPUTS = 24
MAX_VALUE = 999
MIN_DISTINCT = 6
MAX_GOT_CHARS = 100

# Each line of stdin names a function and its argument. The cache keeps a long chain of functions from calling down to
# the first one every time; filling it from below keeps the stack flat.
HARNESS = """
def _answer():
    import functools, sys
    lines = [tuple(map(int, line.split())) for line in sys.stdin.read().splitlines()]
    last = max(number for number, _ in lines)
    names = ["f%d" % number for number in range(1, last + 1)]
    for name in names:
        globals()[name] = functools.lru_cache(maxsize=None)(globals().get(name) or eval(name))
    highest = {}
    for number, value in lines:
        highest[value] = max(number, highest.get(value, 0))
    for value, number in highest.items():
        for name in names[:number]:
            globals()[name](value)
    for number, value in lines:
        print(globals()[names[number - 1]](value))
_answer()
"""
# y is the function before, or x; {a} is a drawn number.
PHRASES = (
    ("the sum of the decimal digits of y, times {a}", "sum(map(int, str(y))) * {a}"),
    ("y // 2 if y is even, else {a} * y + 1", "y // 2 if y % 2 == 0 else {a} * y + 1"),
    ("the number of divisors of y + {a}", "sum((y + {a}) % d == 0 for d in range(1, y + {a} + 1))"),
    ("the decimal digits of y in reverse order as a number, plus {a}", "int(str(y)[::-1]) + {a}"),
    ("the number of ones in the binary form of y, times {a}", "bin(y).count('1') * {a}"),
    ("the sum of the squares of 1, 2, ..., y % {a}", "sum(i * i for i in range(1, y % {a} + 1))"),
    ("the bitwise xor of y and {a}", "y ^ {a}"),
    ("the distance from y to the nearest multiple of {a}", "min(y % {a}, -y % {a})"),
    ("the number of primes below y % {a}", "sum(all(p % d for d in range(2, p)) for p in range(2, y % {a}))"),
    ("the largest decimal digit of y, times {a}", "int(max(str(y))) * {a}"),
)
Run = Callable[[str, Sequence[Case], str], list[CaseOutcome]]
"""A function that runs a program on cases with a harness, up to the first failure."""


@dataclass(frozen=True)
class Stage:
    """One requested function."""

    text: str
    """Function to write, such as "f2(x): f1(x)-7"."""
    code: str
    """A right solution."""
    visible: tuple[tuple[int, int], ...]
    """(argument, value) of the tests that a model may run."""
    hidden: tuple[tuple[int, int], ...]
    """(argument, value) of the tests that decide the reward."""


@dataclass(frozen=True)
class FunctionsProblem:
    """A chain of functions."""

    stages: tuple[Stage, ...]
    memory_mb: int | None = None
    """The memory that they need, in MiB; None for the environment's option."""
    stack_mb: int | None = None
    """The stack that they need, in MiB; None for the environment's option."""

    @property
    def texts(self) -> list[str]:
        """Return the request of each stage."""
        return [stage.text for stage in self.stages]

    def solution(self, stage: int) -> str:
        """Return the right code of a stage."""
        return self.stages[stage].code

    def visible_failure(self, run: Run, program: str, stage: int) -> str | None:
        """Run a stage's visible tests; return the failure, or None if they pass."""
        tests = [(stage + 1, *pair) for pair in self.stages[stage].visible]
        outcome = run(program, [_as_case(tests)], HARNESS)[0]
        if outcome.passed:
            return None
        if outcome.verdict is not CaseVerdict.WRONG:
            return f"{ENDINGS.get(outcome.verdict) or outcome.error or 'the code failed'}."
        lines = hide_addresses(outcome.stdout.strip()).split("\n")
        for (number, argument, value), got in zip(tests, lines + ["nothing"] * len(tests), strict=False):
            if not same_output(got, str(value)):
                return f"f{number}({argument}) is {value}, got {got.strip()[:MAX_GOT_CHARS] or 'nothing'}."
        return "the code prints something of its own."

    def passes_hidden(self, run: Run, program: str) -> bool:
        """Run the hidden tests of all stages at once; return whether all pass."""
        tests = [(number, *pair) for number, stage in enumerate(self.stages, 1) for pair in stage.hidden]
        return run(program, [_as_case(tests)], HARNESS)[0].passed


def draw_functions(rng: np.random.Generator, horizon: int, level: str) -> FunctionsProblem:
    """Draw a chain of `horizon` functions of one level.

    Arguments and values are non-negative integers in "full", and of any sign but at most about 100000 in "small".
    """
    inputs: list[int] = rng.permutation(1000 if level == "full" else 100)[:NUM_INPUTS].tolist()
    values = dict(zip(inputs, inputs, strict=True))
    stages = []
    for number in range(1, horizon + 1):
        draw = _draw_full if level == "full" else _draw_small
        text, code, values = draw(rng, number, values)
        chosen = [inputs[i] for i in rng.permutation(NUM_INPUTS)[: NUM_VISIBLE + NUM_HIDDEN]]
        tests = tuple((argument, values[argument]) for argument in chosen)
        stages.append(Stage(text, code, tests[:NUM_VISIBLE], tests[NUM_VISIBLE:]))
    return FunctionsProblem(tuple(stages))


def _draw_small(rng: np.random.Generator, number: int, values: dict[int, int]) -> tuple[str, str, dict[int, int]]:
    """Draw one operation on the function before, such that values stay small and varied."""
    base = f"f{number - 1}(x)"
    if number == 1:
        formula = f"x*{int(rng.integers(2, 100))}{'+-'[int(rng.integers(2))]}{int(rng.integers(1, 100))}"
        return _small_stage(number, formula, values)
    if len(set(values.values())) < NUM_INPUTS // 2:
        return _small_stage(number, f"{base}+x", values)
    if max(map(abs, values.values())) > MAX_VALUE:
        for _ in range(20):
            stage = _small_stage(number, f"{base}%{int(rng.integers(11, 100))}", values)
            if len(set(stage[2].values())) >= MIN_DISTINCT:
                return stage
        return _small_stage(number, f"{base}%{MAX_VALUE}+x", values)
    operation = "+-*"[int(rng.integers(3))]
    return _small_stage(number, f"{base}{operation}{int(rng.integers(2, 10 if operation == '*' else 100))}", values)


def _small_stage(number: int, formula: str, values: dict[int, int]) -> tuple[str, str, dict[int, int]]:
    code = f"def f{number}(x): return {formula}"
    return f"f{number}(x): {formula}", code, _call(code, number, values)


def _draw_full(rng: np.random.Generator, number: int, values: dict[int, int]) -> tuple[str, str, dict[int, int]]:
    words, expression = PHRASES[int(rng.integers(len(PHRASES)))]
    a, b, m = int(rng.integers(2, 50)), int(rng.integers(1, 10)), int(rng.integers(101, 998))
    before = "x" if number == 1 else f"f{number - 1}(x)"
    text = f"f{number}(x): let y = {before} and z = {words.format(a=a)}; return (z + {b} * x) % {m}"
    lines = (f"def f{number}(x):", f"y = {before}", f"z = {expression.format(a=a)}", f"return (z + {b} * x) % {m}")
    code = "\n    ".join(lines)
    return text, code, _call(code, number, values)


def _call(code: str, number: int, values: dict[int, int]) -> dict[int, int]:
    """Return the values of a stage's function, given those of the one before."""
    # safe: the code is made of the templates above and integers
    names = {f"f{number - 1}": values.__getitem__}
    exec(code, names)
    function = names[f"f{number}"]
    return {argument: function(argument) for argument in values}


def _as_case(tests: Sequence[tuple[int, int, int]]) -> Case:
    stdin = "".join(f"{number} {argument}\n" for number, argument, _ in tests)
    return Case(stdin, "".join(f"{value}\n" for _, _, value in tests))
