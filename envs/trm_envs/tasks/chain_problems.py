"""Problems that can be chained: those with an integer answer and an integer in the question to hide.

An integer can be hidden if it stands alone: not part of a decimal, a power, a subscript, a name or a LaTeX command.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trm_envs.base import split_of
from trm_envs.rows import MathRow, Problems, load_math_problems, once_per_file
from trm_envs.rows.math_rows import refuse_other_forms
from trm_envs.rows.options import REFUSE
from trm_envs.tasks.integers import read_integer
from trm_envs.tasks.math_problems import draw_story
from trm_envs.tasks.row_options import MathRowOptions

MAX_ANSWER = 10**9
_ALONE = re.compile(r"(?<![\w.,^{}\\/:#*+-])(?:0|[1-9][0-9]{0,8})(?![\w^{}/:*!]|[.,]\w|\\[a-z%]|-\w)")
# A LaTeX command, ^ or _ takes the one token after it, and a name is more than one.
_TAKES_NEXT = re.compile(r"(?:\\[A-Za-z]+|[\^_])\s+$")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChainProblem:
    """A problem with one integer that only the problem before reveals."""

    question: str
    answer: int
    start: int
    """Place of the integer in the question."""
    code: str = ""
    """Python code that prints the answer; "" if it is not known."""

    @property
    def key(self) -> int:
        """Return the integer to hide."""
        return int(self._digits)

    @property
    def _digits(self) -> str:
        match = _ALONE.match(self.question, self.start)
        assert match is not None, "found by the same pattern"
        return match[0]

    def with_name(self, name: str) -> str:
        """Return the question with a name for the integer."""
        return self.question[: self.start] + name + self.question[self.start + len(self._digits) :]


@dataclass(frozen=True)
class FileProblem:
    """A problem of a file that can be chained."""

    question: str
    answer: int
    starts: tuple[int, ...]
    """Places of the integers that can be hidden."""


@dataclass(frozen=True)
class FileProblems:
    """The problems of a file that can be chained."""

    problems: dict[str, tuple[FileProblem, ...]]
    """The problems by split."""
    left_out: str
    """Number of the file's problems left out, by reason."""


def draw_generated(rng: np.random.Generator, num: int, split: str) -> list[ChainProblem]:
    """Draw generated problems of a split."""
    problems: list[ChainProblem] = []
    while len(problems) < num:
        story = draw_story(rng, 1, fractions=False)
        if split in (split_of(story.question), "all"):
            start = story.question.index(str(story.start))
            problems.append(ChainProblem(story.question, int(story.answer), start, story.code(0)))
    return problems


def problems_of_file(options: MathRowOptions) -> Problems[MathRow]:
    """Return all problems of a file, whether or not they can be chained.

    Raises:
        ValueError: if the file cannot be read or used, or holds others than `rows_hash` says.
    """
    problems = load_math_problems(options.rows, unscorable=options.unscorable)
    problems.check_hash(options.rows_hash)
    return problems


def draw_of_file(rng: np.random.Generator, options: MathRowOptions) -> list[ChainProblem]:
    """Draw `horizon` different problems of the split of a file.

    Raises:
        ValueError: if the file cannot be read, or has fewer problems that can be chained.
    """
    path, num, split = options.rows, options.horizon, options.split
    problems_of_file(options)
    file = once_per_file(path, read_file_problems, options.unscorable, options.read_form)
    pool = file.problems[split]
    if len(pool) < num:
        raise ValueError(
            f'{path}: {len(pool)} problems of split "{split}" can be chained, and horizon = {num} needs as many; '
            f'{file.left_out}; lower horizon, set split="all", or bring more problems'
        )
    drawn = [pool[int(number)] for number in rng.choice(len(pool), size=num, replace=False)]
    return [
        ChainProblem(problem.question, problem.answer, problem.starts[int(rng.integers(len(problem.starts)))])
        for problem in drawn
    ]


def read_file_problems(path: str, unscorable: str = REFUSE, form: str | None = None) -> FileProblems:
    """Return the problems of a file that can be chained, each once. Lines that all questions share are dropped.

    Args:
        path: the file.
        unscorable: see `load_math_problems`.
        form: the form in which answers are written, if the questions, without shared lines, may ask for no other.

    Raises:
        ValueError: if the file cannot be read; see `load_math_problems`.
    """
    file = load_math_problems(path, unscorable=unscorable)
    rows = [file.at(number) for number in file.numbers]
    answers = {row.question: row.answer for row in rows}
    texts = drop_shared_lines(list(answers))
    if form is not None:
        refuse_other_forms(path, dict(zip(file.numbers, texts, strict=True)), form)
    problems: dict[str, list[FileProblem]] = {"train": [], "held_out": [], "all": []}
    num_without_answer = num_without_key = 0
    for (question, answer), text in zip(answers.items(), texts, strict=True):
        value, starts = read_integer(answer), find_integers(text)
        if value is None or abs(value) > MAX_ANSWER:
            num_without_answer += 1
        elif not starts:
            num_without_key += 1
        else:
            for split in (split_of(question), "all"):
                problems[split].append(FileProblem(text, value, starts))
    left_out = (
        f"{num_without_answer + num_without_key} of its {len(answers)} problems are left out: {num_without_answer} "
        f"have no integer answer of at most {MAX_ANSWER}, {num_without_key} no integer that can be hidden"
    )
    _log.info("%s: %s", path, left_out)
    return FileProblems({split: tuple(found) for split, found in problems.items()}, left_out)


def find_integers(question: str) -> tuple[int, ...]:
    """Return the places of the integers that can be hidden; none in a question with the code of a drawing."""
    if "[asy]" in question:
        return ()
    starts = (match.start() for match in _ALONE.finditer(question))
    return tuple(start for start in starts if not _TAKES_NEXT.search(question[max(start - 40, 0) : start]))


def drop_shared_lines(questions: Sequence[str]) -> list[str]:
    """Return the questions without the first and last lines that all of them share, such as the form of an answer."""
    lines = [question.strip().split("\n") for question in questions]
    least = min(map(len, lines))
    num_first = next((i for i in range(least) if len({each[i] for each in lines}) > 1), 0)
    num_last = next((i for i in range(least) if len({each[-1 - i] for each in lines}) > 1), 0)
    kept = ["\n".join(each[num_first : len(each) - num_last]).strip() for each in lines]
    return kept if all(kept) and num_first + num_last < least else ["\n".join(each) for each in lines]
