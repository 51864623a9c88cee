"""Draw small Python projects with planted bugs and their tests, for CodeRepair.

A project has modules, each with a test file. A module has independent functions, some with a bug, and a report that
calls them all and, in every second module, one of the module before. Tests of both kinds notice every bug: those of the
test files and the hidden ones, which take other arguments.
"""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from trm_envs.tasks.project_parts import EXAMPLES, MODULE_NAMES, PARTS, Part

BUGS_A_MODULE = 4
FUNCTIONS_A_MODULE = 5
MIN_MODULES = 2
NUM_CANDIDATES = 16
NUM_VISIBLE = 3
NUM_HIDDEN = 5
VISIBLE_NOTICING = 1
HIDDEN_NOTICING = 3
NUM_BUGS = 3
MAX_ROUNDS = 200
LETTERS = "abcdefghijklmnopqrstuvwxyz    "


@dataclass(frozen=True)
class Check:
    """A call with its right result."""

    module: str
    function: str
    args: tuple[Any, ...]
    expected: str
    """`ascii()` of the right result."""

    @property
    def assertion(self) -> str:
        """Return the check as a line of a test."""
        return f"assert {self.function}({', '.join(map(ascii, self.args))}) == {self.expected}"


@dataclass(frozen=True)
class Bug:
    """A planted bug."""

    path: str
    """The file."""
    function: str
    """The function's name."""
    wrong: str
    """The function as it is handed out."""
    right: str
    """The right function."""

    def edit(self, text: str) -> tuple[str, str] | None:
        """Return the smallest replacement in a file's text that fixes the bug; None if the bug is not in it."""
        if self.wrong not in text:
            return None
        pairs = zip(self.wrong.splitlines(), self.right.splitlines(), strict=True)
        wrong, right = next((wrong.strip(), right.strip()) for wrong, right in pairs if wrong != right)
        return (wrong, right) if text.count(wrong) == 1 else (self.wrong, self.right)


@dataclass(frozen=True)
class Project:
    """A project as it is handed out, with its right version."""

    files: dict[str, str]
    right_files: dict[str, str]
    bugs: tuple[Bug, ...]
    hidden: tuple[Check, ...]


@dataclass(frozen=True)
class FunctionPlan:
    """The plan of a function."""

    part: int
    """The index of its part in `PARTS`."""
    constants: tuple[int, int, int]
    """The constants a, b and c."""
    bug: int | None
    """The index of its bug among the part's; None for a right function."""


@dataclass(frozen=True)
class Plan:
    """Everything that defines a project except the arguments of its tests, which follow from the seed."""

    modules: tuple[tuple[str, tuple[FunctionPlan, ...]], ...]
    seed: int


@dataclass(frozen=True)
class _Function:
    name: str
    part: Part
    call: Callable[..., Any]
    right: str
    wrong: str
    visible: list[tuple[Any, ...]]
    hidden: list[tuple[Any, ...]]


def draw_plan(rng: np.random.Generator, horizon: int) -> Plan:
    """Draw the plan of a project with `horizon` bugs, each in a function of its own."""
    num_modules = max(MIN_MODULES, -(-horizon // BUGS_A_MODULE))
    num_functions = num_modules * FUNCTIONS_A_MODULE
    buggy = set(rng.permutation(num_functions)[:horizon].tolist())
    constants = rng.integers((2, 23, 2), (13, 41, 5), (num_functions, 3)).tolist()
    bugs = rng.integers(0, NUM_BUGS, num_functions).tolist()
    names = rng.permutation(len(MODULE_NAMES)).tolist()
    modules = []
    for index in range(num_modules):
        number, which = divmod(index, len(MODULE_NAMES))
        name = MODULE_NAMES[names[which]] + (f"_{number + 1}" if number else "")
        parts = rng.permutation(len(PARTS))[:FUNCTIONS_A_MODULE].tolist()
        plans = []
        for place, part in enumerate(parts, index * FUNCTIONS_A_MODULE):
            plans.append(FunctionPlan(part, tuple(constants[place]), bugs[place] if place in buggy else None))
        modules.append((name, tuple(plans)))
    return Plan(tuple(modules), int(rng.integers(1 << 62)))


def build_project(plan: Plan) -> Project:
    """Write a planned project and draw its tests."""
    rng = np.random.default_rng(plan.seed)
    files: dict[str, str] = {}
    right_files: dict[str, str] = {}
    bugs: list[Bug] = []
    hidden: list[Check] = []
    borrowed: tuple[str, _Function] | None = None
    for index, (module, plans) in enumerate(plan.modules):
        functions = [_write_function(rng, each, module) for each in plans]
        path = f"{module}.py"
        tests = _checks(rng, module, functions, borrowed)
        files[path] = _module_text(module, [each.wrong for each in functions], functions, borrowed)
        right_files[path] = _module_text(module, [each.right for each in functions], functions, borrowed)
        files[f"test_{path}"] = right_files[f"test_{path}"] = _test_text(module, [visible for visible, _ in tests])
        hidden += [check for _, checks in tests for check in checks]
        bugs += [Bug(path, each.name, each.wrong, each.right) for each in functions if each.wrong != each.right]
        borrowed = (module, functions[0]) if index % 2 == 0 else None
    return Project(files, right_files, tuple(bugs), tuple(hidden))


def _write_function(rng: np.random.Generator, plan: FunctionPlan, module: str) -> _Function:
    """Write a function, and draw arguments with which both kinds of tests notice its bug."""
    part = PARTS[plan.part]
    name = f"{part.stem}_{module}"
    right = wrong = source_of(name, part, part.body, plan.constants)
    call = wrong_call = define(name, right)
    if plan.bug is not None:
        wrong = source_of(name, part, part.body.replace(*part.bugs[plan.bug]), plan.constants)
        wrong_call = define(name, wrong)
    visible, hidden = _draw_tests(rng, part.parameters, call, wrong_call)
    return _Function(name, part, call, right, wrong, visible, hidden)


def _draw_tests(
    rng: np.random.Generator, parameters: str, call: Callable[..., Any], wrong_call: Callable[..., Any]
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Draw different arguments for the visible and the hidden tests of a function.

    If the two functions differ, `VISIBLE_NOTICING` and `HIDDEN_NOTICING` of the arguments tell them apart.
    """
    num_noticing = 0 if call is wrong_call else VISIBLE_NOTICING + HIDDEN_NOTICING
    drawn: dict[str, tuple[Any, ...]] = {}
    noticing: dict[str, tuple[Any, ...]] = {}
    for _ in range(MAX_ROUNDS):
        drawn.update((ascii(args), args) for args in draw_arguments(rng, parameters))
        if num_noticing:
            noticing = {
                key: args for key, args in drawn.items() if outcome_of(call, args) != outcome_of(wrong_call, args)
            }
        if len(drawn) >= NUM_VISIBLE + NUM_HIDDEN and len(noticing) >= num_noticing:
            chosen = list(noticing)[:num_noticing]
            others = [key for key in drawn if key not in chosen]
            cut = VISIBLE_NOTICING if num_noticing else 0
            visible = [*chosen[:cut], *others[: NUM_VISIBLE - cut]]
            hidden = [*chosen[cut:], *others[NUM_VISIBLE - cut :]][:NUM_HIDDEN]
            return [drawn[key] for key in visible], [drawn[key] for key in hidden]
    raise AssertionError(f"{MAX_ROUNDS} rounds of arguments do not show a bug of {call.__name__}")


def source_of(name: str, part: Part, body: str, constants: tuple[int, int, int]) -> str:
    """Return a function's source."""
    a, b, c = constants
    lines = f'"""{part.doc}"""\n{body.strip()}'.format(a=a, b=b, c=c)
    return f"def {name}({part.parameters}):\n{textwrap.indent(lines, '    ')}\n"


def define(name: str, source: str) -> Callable[..., Any]:
    """Return the function that a source defines."""
    # safe: the source is made of the parts and integers
    names: dict[str, Any] = {}
    exec(source, names)
    function: Callable[..., Any] = names[name]
    return function


def outcome_of(function: Callable[..., Any], args: tuple[Any, ...]) -> str:
    """Return the outcome of a call, as text."""
    try:
        return ascii(function(*args))
    except Exception as error:
        return f"raises {type(error).__name__}"


def draw_arguments(rng: np.random.Generator, parameters: str) -> list[tuple[Any, ...]]:
    """Draw arguments for a function."""
    if parameters == "text":
        letters = rng.integers(0, len(LETTERS), (NUM_CANDIDATES, 20)).tolist()
        lengths = rng.integers(0, 21, NUM_CANDIDATES).tolist()
        rows = zip(letters, lengths, strict=True)
        drawn = [("".join(LETTERS[letter] for letter in row[:length]),) for row, length in rows]
    elif parameters == "values":
        values = rng.integers(-20, 61, (NUM_CANDIDATES, 8)).tolist()
        lengths = rng.integers(0, 9, NUM_CANDIDATES).tolist()
        drawn = [(row[:length],) for row, length in zip(values, lengths, strict=True)]
    else:
        count = len(parameters.split(","))
        drawn = [tuple(row) for row in rng.integers(-40, 81, (NUM_CANDIDATES, count)).tolist()]
    return drawn


def _checks(
    rng: np.random.Generator, module: str, functions: list[_Function], borrowed: tuple[str, _Function] | None
) -> list[tuple[list[Check], list[Check]]]:
    """Return the visible and the hidden checks of each function, the report's last."""
    tests = []
    for function in functions:
        checks = [
            Check(module, function.name, args, ascii(function.call(*args)))
            for args in (*function.visible, *function.hidden)
        ]
        tests.append((checks[:NUM_VISIBLE], checks[NUM_VISIBLE:]))
    called = [*functions, borrowed[1]] if borrowed else functions
    lists = draw_arguments(rng, "values")[: 2 * NUM_VISIBLE]
    checks = [
        Check(module, f"report_{module}", (values,), ascii([_report(function, values) for function in called]))
        for (values,) in lists
    ]
    return [*tests, (checks[:NUM_VISIBLE], checks[NUM_VISIBLE:])]


def _report(function: _Function, values: list[int]) -> Any:
    """Return the value of a report's call of a function; see `EXAMPLES`."""
    total, count = sum(values), len(values)
    args = {"value": (total,), "values": (values,), "text": ("ab cde " * count,), "left, right": (total, count)}
    return function.call(*args[function.part.parameters])


def _module_text(
    module: str, sources: list[str], functions: list[_Function], borrowed: tuple[str, _Function] | None
) -> str:
    called = [*functions, borrowed[1]] if borrowed else functions
    lines = [f"        {function.name}({EXAMPLES[function.part.parameters]}),\n" for function in called]
    head = f"from {borrowed[0]} import {borrowed[1].name}\n\n\n" if borrowed else ""
    report = f'def report_{module}(values):\n    """Return what each function makes of the values."""\n    return [\n'
    return head + "\n\n".join([*sources, f"{report}{''.join(lines)}    ]\n"])


def _test_text(module: str, tests: list[list[Check]]) -> str:
    names = ", ".join(checks[0].function for checks in tests)
    texts = [
        f"def test_{checks[0].function}():\n" + "".join(f"    {check.assertion}\n" for check in checks)
        for checks in tests
    ]
    return f"from {module} import {names}\n\n\n" + "\n\n".join(texts)
