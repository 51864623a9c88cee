r"""Programming problems from a file, for CodeTests: LiveCodeBench's columns, or plain ones.

    {"question_content": str, "public_test_cases": [{input, output, testtype}], "private_test_cases": ..., ...}
    {"question": str, "tests": [{"input": str, "output": str}], "hidden_tests": [...], "solution": str (optional)}

Test lists may be JSON text, and LiveCodeBench's private ones are packed; see `packed_tests`. A row may also state the
needs of a right program, `memory_mb` and `stack_mb`, and `tolerance`, the largest error of a printed number. Without
the field, the tolerance is the one that the problem's text states ("absolute or relative error of at most 10^{-6}").
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from trm_envs.options import check_integer, cut_middle
from trm_envs.python_tool import MEGABYTES
from trm_envs.rows import Problems, UnscorableRow, find_problems, once_per_file
from trm_envs.rows.options import REFUSE
from trm_envs.scoring.outputs import check_tolerance, stated_tolerance
from trm_envs.scoring.programs import ENDINGS, Case, CaseOutcome, CaseVerdict, hide_addresses
from trm_envs.tasks.packed_tests import unpack_tests

MAX_SHOWN_CHARS = 500
FUNCTIONAL = "it asks for a function; only programs that read stdin can be tested: leave such rows out of the file"
Run = Callable[[str, Sequence[Case], str], list[CaseOutcome]]


@dataclass(frozen=True)
class RowProblem:
    """One problem of a file: a single stage."""

    question: str
    """The program to write, in words."""
    visible: tuple[Case, ...]
    """The tests that a model may run."""
    hidden: tuple[Case, ...]
    """The tests that decide the reward, once the visible ones have passed."""
    solution_code: str = ""
    """A right program, if the row has one."""
    tolerance: float | None = None
    """The largest error of a printed number; None compares exactly."""
    memory_mb: int | None = None
    """The memory that a right program needs, in MiB; None for the environment's option."""
    stack_mb: int | None = None
    """The stack that a right program needs, in MiB; None for the environment's option."""

    @property
    def texts(self) -> list[str]:
        """Return the request of the only stage."""
        return [self.question]

    def solution(self, stage: int) -> str:
        """Return the row's own solution.

        Raises:
            NotImplementedError: if it has none.
        """
        if not self.solution_code:
            raise NotImplementedError("the row has no `solution`; add that field, a program, for the scripted solver")
        return self.solution_code

    def visible_failure(self, run: Run, program: str, stage: int) -> str | None:
        """Run the visible tests; return the failure of the first that fails, or None."""
        for number, (case, outcome) in enumerate(zip(self.visible, run(program, self.visible, ""), strict=True), 1):
            if not outcome.passed:
                return _describe(number, case, outcome)
        return None

    def passes_hidden(self, run: Run, program: str) -> bool:
        """Run the hidden tests on a program that has passed the visible ones; return whether all pass."""
        return all(outcome.passed for outcome in run(program, self.hidden, ""))


@dataclass(frozen=True)
class CodeRow:
    """A row with its hidden tests still packed: those of a whole file may be gigabytes."""

    problem: RowProblem
    hidden_field: str
    packed: Any

    @property
    def question(self) -> str:
        """Return the question."""
        return self.problem.question

    @property
    def truth(self) -> str:
        """Return a hash of all tests as they stand in the file."""
        packed = self.packed if isinstance(self.packed, str) else json.dumps(self.packed, default=str)
        digest = hashlib.sha256(json.dumps([dataclasses.astuple(case) for case in self.problem.visible]).encode())
        digest.update(packed.encode(errors="replace"))
        return f"tests {digest.hexdigest()[:16]}"

    def hidden(self) -> tuple[Case, ...]:
        """Unpack the hidden tests.

        Raises:
            ValueError: if they cannot be read.
        """
        return _cases(self.hidden_field, self.packed, self.problem.tolerance)


def load_code_problems(path: str, *, unscorable: str = REFUSE) -> Problems[CodeRow]:
    """Return the problems of a file; one copy per process, read again when the file changes.

    Args:
        path: the file.
        unscorable: treatment of rows that cannot be tested by stdin: "refuse", or "drop" to leave them out.

    Raises:
        ValueError: if the file cannot be read or a row is not a problem with stdin tests; it names file, row and field.
    """
    return once_per_file(path, _read_code_problems, unscorable)


def row_problem(path: str, number: int, *, unscorable: str = REFUSE) -> RowProblem:
    """Return the problem of one row of a file, with its hidden tests.

    Raises:
        ValueError: see `load_code_problems`; also if the hidden tests cannot be read.
    """
    row = load_code_problems(path, unscorable=unscorable).at(number)
    try:
        hidden = row.hidden()
    except ValueError as error:
        raise ValueError(f"{path}, row {number} (counted from 0): {error}") from error
    return dataclasses.replace(row.problem, hidden=hidden)


def _read_code_problems(path: str, unscorable: str) -> Problems[CodeRow]:
    # tests are samples of the behaviour that the text asks for: other tests contradict nothing
    return find_problems(path, _convert, unscorable, are_same=_have_same_tests, has_one_truth=False)


def _have_same_tests(first: CodeRow, second: CodeRow) -> bool:
    """Return whether two rows of one question have the same tests, however they are packed."""
    if first.problem.visible != second.problem.visible:
        return False
    try:
        return first.hidden() == second.hidden()
    except ValueError:
        return False


def _convert(row: dict[str, Any]) -> CodeRow:
    """Read everything of a row except its hidden tests."""
    name = "question" if "question" in row else "question_content"
    visible, hidden = ("tests", "hidden_tests") if name == "question" else ("public_test_cases", "private_test_cases")
    question, solution = row.get(name), row.get("solution")
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f'field "{name}": expected text, the problem; rename a field to "question" if it is that')
    if row.get("starter_code"):
        raise UnscorableRow(f'field "starter_code": {FUNCTIONAL}')
    if row.get(hidden) is None:
        raise ValueError(f'field "{hidden}": is missing; expected the tests that decide')
    tolerance = stated_tolerance(question)
    if row.get("tolerance") is not None:
        tolerance = check_tolerance("tolerance", row["tolerance"])
    problem = RowProblem(
        question,
        _cases(visible, row.get(visible), tolerance),
        (),
        solution if isinstance(solution, str) else "",
        tolerance,
        *(_megabytes(field, row.get(field), *bounds) for field, bounds in MEGABYTES.items()),
    )
    return CodeRow(problem, hidden, row[hidden])


def _megabytes(field: str, value: Any, least: int, most: int) -> int | None:
    if value is not None:
        check_integer(f'field "{field}"', value, least, most)
    return value


def _cases(field: str, value: Any, tolerance: float | None) -> tuple[Case, ...]:
    try:
        tests = list(unpack_tests(value)) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(
            f'field "{field}": expected JSON, or base64 of zlib of a pickled JSON text: {error}'
        ) from error
    if not isinstance(tests, list) or not tests:
        found = "an empty list" if tests == [] else type(tests).__name__
        raise ValueError(f'field "{field}": is {found}; expected a list of at least one test')
    return tuple(_case(f'field "{field}", test {number}', test, tolerance) for number, test in enumerate(tests))


def _case(where: str, test: Any, tolerance: float | None) -> Case:
    if not isinstance(test, dict):
        raise ValueError(f'{where}: is {type(test).__name__}; expected an object with "input" and "output"')
    if test.get("testtype", "stdin") != "stdin":
        raise UnscorableRow(f'{where}: "testtype" is {test["testtype"]!r}: {FUNCTIONAL}')
    for field in ("input", "output"):
        if not isinstance(test.get(field), str):
            raise ValueError(f'{where}: "{field}" is {type(test.get(field)).__name__}; expected text')
    return Case(test["input"], test["output"], tolerance)


def _describe(number: int, case: Case, outcome: CaseOutcome) -> str:
    parts = [f"test {number}", "Input:", _short(case.stdin), "Expected:", _short(case.expected)]
    if outcome.verdict is CaseVerdict.WRONG:
        return "\n".join([*parts, "Got:", _short(hide_addresses(outcome.stdout)) or "(nothing)"])
    return "\n".join([*parts, f"But {ENDINGS.get(outcome.verdict) or outcome.error or 'the code failed'}."])


def _short(text: str) -> str:
    return cut_middle(text.rstrip("\n"), MAX_SHOWN_CHARS)
