r"""`trm/PythonMath-v0`: math problems with a Python tool, generated ones or those of a file.

Without `rows` a task is a story of `horizon` computations, each on the last result; see `math_problems`. Its answer is
an integer or a fraction, and anything that is not a number is wrong.

With `rows` a task is one problem of a file, asked in the file's own words; see `trm_envs.rows` for the forms. Its
answer may be any expression: `score_math` judges it, and a case that it cannot decide is a `VerifierError`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from trm_envs.errors import VerifierError
from trm_envs.python_tool import PythonToolEnv
from trm_envs.rows import MathRow, Problems, check_row_options, load_math_problems
from trm_envs.scoring import Verdict, compare_exact, plain_answer, score_math
from trm_envs.tasks.math_problems import Story, draw_story
from trm_envs.tasks.row_options import MathRowOptions
from trm_envs.tools import ToolResult


@dataclass(frozen=True)
class PythonMathOptions(MathRowOptions):
    """Options of PythonMath.

    Raises:
        ValueError: if a value is not allowed.
    """

    row: int | None = None
    """The number of one row, from 0, to ask each of a file once; None draws a problem."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_row_options(self.rows, self.row, self.split, self.horizon)


class PythonMath(PythonToolEnv[PythonMathOptions]):
    """The environment; see the module's docstring.

    Args:
        **options: defaults for the fields of `PythonMathOptions`.
    """

    options_class = PythonMathOptions
    system_prompt = "Solve the problem. Compute with the python tool. Give the final answer as {answer}."

    def make_task(self) -> str:
        """Draw a problem; return it."""
        self._story: Story | None = None
        self._num_done = 0
        if not self.options.rows:
            self._story = draw_story(self.np_random, self.options.horizon)
            self._truth = self.expected_answer = self._story.answer
            return self._story.question
        self._row = row = self._draw_row()
        self._truth = self.expected_answer = row.answer
        self.system_prompt = "\n".join(filter(None, (row.system, self.system_prompt)))
        return row.question

    def follow_up(self, results: Sequence[ToolResult]) -> str:
        """Return the results."""
        self._num_done += any(result.ok for result in results)
        return super().follow_up(results)

    def score(self, answer: str) -> float:
        """Return 1.0 for an answer equal to the true one, else 0.0.

        Raises:
            VerifierError: if the verifier cannot decide; never for a generated problem.
        """
        if self._story is not None:
            return float(compare_exact(plain_answer(answer), self._truth) is True)
        try:
            outcome = score_math(answer, self._truth, bare=True, tolerance=self._row.tolerance)
        except RecursionError:
            raise
        except RuntimeError as error:  # the workers were closed meanwhile
            raise VerifierError(f"math-verify's workers: {error}") from error
        if outcome.verdict is Verdict.VERIFIER_ERROR:
            raise VerifierError(f"answer {answer[:60]!r}, truth {self._truth[:60]!r}: {outcome.detail}")
        return outcome.reward

    def solution(self) -> str:
        """Return the code of the present step, or the answer after the last; of a row, the answer at once."""
        if self._story is None or self._num_done >= self.options.horizon:
            return self.answer(self._truth)
        return self.call("python", code=self._story.code(self._num_done))

    def problems(self) -> Problems[MathRow]:
        """Return the problems of the file `rows`.

        Raises:
            ValueError: if the file cannot be read or used, or holds others than `rows_hash` says.
        """
        options = self.options
        problems = load_math_problems(options.rows, unscorable=options.unscorable, form=options.read_form)
        problems.check_hash(options.rows_hash)
        return problems

    def _draw_row(self) -> MathRow:
        problems = self.problems()
        return problems.at(problems.draw(self.np_random) if self.options.row is None else self.options.row)
