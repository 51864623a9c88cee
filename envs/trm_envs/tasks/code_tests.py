r"""`trm/CodeTests-v0`: write code, run it against visible tests, be judged by hidden ones.

Without `rows` a task is a chain of `horizon` small functions, each of which calls the one before. The next one is
revealed once the visible tests of the present one pass (`reveal="stepwise"`), or all stand in the first message
("upfront"). With `rows` a task is one problem of a file: a program that reads stdin and prints; see `code_rows`.

Code that passes is kept, and later code is appended to it. Any final answer submits the kept code: the reward is
1 if the hidden tests of all stages pass, and 0 before the last stage has passed. Expected outputs never enter the
sandbox.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from trm_envs.base import ToolEnv
from trm_envs.metered import Metered
from trm_envs.options import check_choice, check_seconds
from trm_envs.rows import Problems, check_row_options
from trm_envs.scoring.programs import Case, CaseOutcome, run_cases
from trm_envs.tasks.code_rows import CodeRow, RowProblem, load_code_problems, row_problem
from trm_envs.tasks.generated_functions import LEVELS, FunctionsProblem, draw_functions
from trm_envs.tasks.row_options import RowOptions
from trm_envs.tools import ToolResult, tool

REVEALS = ("stepwise", "upfront")
ASK = "All visible tests pass. Give the final answer."
ROW_PROMPT = (
    "Write a Python program that reads stdin and prints to stdout. Run its tests with run_tests. When they pass, give "
    "the final answer as {answer}."
)


@dataclass(frozen=True)
class CodeTestsOptions(RowOptions):
    """Options of CodeTests.

    Raises:
        ValueError: if a value is not allowed.
    """

    reveal: str = "stepwise"
    """"stepwise": one function a turn; "upfront": all of them in the first message."""
    level: str = "small"
    """Generated functions: "small" (one operation, as a formula) or "full" (described in words)."""
    row: int | None = None
    """The number of one row, from 0, to ask each of a file once; None draws a problem."""
    tests_timeout_s: float = 60.0
    """Seconds that all tests of a row may take together, or less if the budget has less left; those of generated
    functions are one run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("reveal", self.reveal, REVEALS)
        check_choice("level", self.level, LEVELS)
        check_row_options(self.rows, self.row, self.split, self.horizon)
        check_seconds("tests_timeout_s", self.tests_timeout_s)


class CodeTests(ToolEnv[CodeTestsOptions]):
    """The environment; see the module's docstring.

    Args:
        **options: defaults for the fields of `CodeTestsOptions`.
    """

    options_class = CodeTestsOptions
    system_prompt = "Write the functions in Python, one call a turn. After the last, give the final answer as {answer}."
    answer_form = "done"

    @tool
    def run_tests(self, code: str) -> str:
        """Run the visible tests on this code.

        Args:
            code: Python code, appended to what has passed before
        """
        if self._num_passed == len(self._problem.texts):
            return "Nothing is left to test."
        program = "\n".join([*self._accepted, code])
        failure = self._problem.visible_failure(self._run, program, self._num_passed)
        if failure is not None:
            self._num_failed_runs += 1
            return f"Failed: {failure}"
        self._accepted.append(code)
        self._num_passed += 1
        return "Passed."

    def make_task(self) -> str:
        """Draw a problem; return the first message."""
        self._accepted: list[str] = []
        self._num_passed = self._num_failed_runs = 0
        self._problem = self._draw_problem()
        self.task_key = "\n".join(self._problem.texts)
        if self.options.rows:
            self.system_prompt = ROW_PROMPT
            return self._problem.texts[0]
        count = 1 if self.options.reveal == "stepwise" else None
        return " ".join(f"Write {text}." for text in self._problem.texts[:count])

    def follow_up(self, results: Sequence[ToolResult]) -> str:
        """Return the results, and the next request unless the first message has it."""
        shown = " ".join(result.text if result.ok else f"{result.text}." for result in results)
        if self._num_passed == len(self._problem.texts):
            return f"{shown} {ASK}"
        if self.options.rows or self.options.reveal == "upfront":
            return shown
        return f"{shown} Write {self._problem.texts[self._num_passed]}."

    def score(self, answer: str) -> float:
        """Return 1.0 if every stage has passed and all hidden tests pass, whatever the answer says."""
        if self._num_passed < len(self._problem.texts):
            return 0.0
        return float(self._problem.passes_hidden(self._run, "\n".join(self._accepted)))

    def numbers(self) -> dict[str, float]:
        """Return the fraction of the stages that passed their visible tests, and the number of runs that failed."""
        return {
            "stages_passed_frac": self._num_passed / len(self._problem.texts),
            "num_failed_runs": float(self._num_failed_runs),
        }

    def solution(self) -> str:
        """Return the call with the right code of the present stage, or the answer after the last.

        Raises:
            NotImplementedError: if the row has no field `solution`.
        """
        if self._num_passed == len(self._problem.texts):
            return self.answer("done")
        return self.call("run_tests", code=self._problem.solution(self._num_passed))

    def problems(self) -> Problems[CodeRow]:
        """Return the problems of the file `rows`.

        Raises:
            ValueError: if the file cannot be read or used, or holds others than `rows_hash` says.
        """
        problems = load_code_problems(self.options.rows, unscorable=self.options.unscorable)
        problems.check_hash(self.options.rows_hash)
        return problems

    def _draw_problem(self) -> FunctionsProblem | RowProblem:
        options = self.options
        if not options.rows:
            return draw_functions(self.np_random, options.horizon, options.level)
        number = self.problems().draw(self.np_random) if options.row is None else options.row
        return row_problem(options.rows, number, unscorable=options.unscorable)

    def _run(self, program: str, cases: Sequence[Case], harness: str) -> list[CaseOutcome]:
        return run_cases(
            Metered(self.options.open_sandbox, self.tool_time),
            program,
            cases,
            harness=harness,
            limits=self.options.limits(self.options.tool_timeout_s, self._problem.memory_mb, self._problem.stack_mb),
            stop_at_first_failure=True,
            deadline_s=self.options.tests_timeout_s,
        )
