r"""`trm/ComposedMath-v0`: `horizon` problems in a row, each of which needs the answer of the one before.

In every problem but the first, one integer is replaced by a name, which is defined as the last problem's answer plus or
minus a constant. The final answer lists all answers in order; the reward is 1 only if all are right. (The
composition follows R-HORIZON, arXiv 2510.08189.)

The problems are generated, or those of a file (`rows`) that can be chained; see `chain_problems`. No problem of a
held-out task is part of a training task.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from trm_envs.python_tool import PythonToolEnv
from trm_envs.rows import MathRow, Problems
from trm_envs.scoring import plain_answer
from trm_envs.tasks.chain_problems import draw_generated, draw_of_file, problems_of_file
from trm_envs.tasks.row_options import MathRowOptions
from trm_envs.tools import ToolResult

_SPACES = re.compile(r"(?:\s|\\[,;: ]|~)+")
_SEPARATOR = re.compile(r" ?, ?| ")
_INTEGER = re.compile(r"[+-]?[0-9]{1,30}")


@dataclass(frozen=True)
class ComposedMathOptions(MathRowOptions):
    """Options of ComposedMath.

    Raises:
        ValueError: if a value is not allowed.
    """


class ComposedMath(PythonToolEnv[ComposedMathOptions]):
    """The environment; see the module's docstring.

    Args:
        **options: defaults for the fields of `ComposedMathOptions`.
    """

    options_class = ComposedMathOptions
    system_prompt = (
        "Solve the problems in order. Compute with the python tool. Give the answers of all problems, in order and "
        "separated by commas, as {answer}."
    )
    answer_form = "first, second, ..."

    def make_task(self) -> str:
        """Draw problems and chain them; return the first message."""
        options = self.options
        if options.rows:
            self._problems = draw_of_file(self.np_random, options)
        else:
            self._problems = draw_generated(self.np_random, options.horizon, options.split)
        self.task_split = options.split
        self._answers = self.expected_answer = ", ".join(str(problem.answer) for problem in self._problems)
        self._num_done = 0
        self._given: list[int | None] = []
        questions = [self._problems[0].question]
        for number, (before, problem) in enumerate(zip(self._problems, self._problems[1:], strict=False), 2):
            name = _name_for(number, problem.question)
            key = _say_key(number - 1, problem.key - before.answer)
            questions.append(f"{name} is {key}. {problem.with_name(name)}")
        return "\n\n".join(f"Problem {number}. {text}" for number, text in enumerate(questions, 1))

    def problems(self) -> Problems[MathRow]:
        """Return the problems of the file `rows`.

        Raises:
            ValueError: if the file cannot be read or used, or holds others than `rows_hash` says.
        """
        return problems_of_file(self.options)

    def follow_up(self, results: Sequence[ToolResult]) -> str:
        """Return the results."""
        self._num_done += any(result.ok for result in results)
        return super().follow_up(results)

    def score(self, answer: str) -> float:
        """Return 1.0 if the answer lists exactly the right answers in order, else 0.0."""
        self._given = read_list(answer)
        return float(self._given == [problem.answer for problem in self._problems])

    def numbers(self) -> dict[str, float]:
        """Return the fraction of answers that are right at their place, and the fraction before the first wrong one."""
        given = [*self._given, *[None] * len(self._problems)]
        right = [problem.answer == value for problem, value in zip(self._problems, given, strict=False)]
        num_first = right.index(False) if False in right else len(right)
        return {"right_frac": sum(right) / len(right), "right_before_error_frac": num_first / len(right)}

    def solution(self) -> str:
        """Return the code of the present problem, or all answers after the last; of a file's, the answers at once."""
        if self._num_done < len(self._problems) and (code := self._problems[self._num_done].code):
            return self.call("python", code=code)
        return self.answer(self._answers)


def read_list(text: str) -> list[int | None]:
    """Return the integers of a list with commas or spaces; None for a part that is not one. Brackets are optional."""
    text = plain_answer(text).replace("{,}", "").replace("\\left", "").replace("\\right", "").strip()
    if (text[:1], text[-1:]) in (("(", ")"), ("[", "]")):
        text = text[1:-1].strip()
    parts = [part.strip("$") for part in _SEPARATOR.split(_SPACES.sub(" ", text))]
    return [int(part) if _INTEGER.fullmatch(part) else None for part in parts]


def _name_for(number: int, question: str) -> str:
    """Return a name that the question does not use."""
    name = f"Y_{number}"
    while name in question:
        name = "Y" + name
    return name


def _say_key(number: int, difference: int) -> str:
    what = f"the answer of problem {number}"
    return what if difference == 0 else f"{what} {'plus' if difference > 0 else 'minus'} {abs(difference)}"
