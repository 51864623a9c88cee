"""The problems of a file: rows that can be scored, with each problem once, however often the file repeats it."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from trm_envs.rows.files import iter_rows
from trm_envs.rows.options import DROP
from trm_fields import refuse

NUM_SHOWN = 5


class UnscorableRow(ValueError):
    """A row without a true answer to score against; such rows may be left out."""


class Task(Protocol):
    """A row's task. `question` and `truth` identify its problem."""

    @property
    def question(self) -> str:
        """Return the question."""

    @property
    def truth(self) -> str:
        """Return the truth that decides whether an answer is right."""


TaskT = TypeVar("TaskT", bound=Task)


@dataclass(frozen=True)
class Problems(Generic[TaskT]):
    """The problems of a file."""

    path: str
    rows: tuple[TaskT | None, ...]
    """Every row of the file; None for one that was left out."""
    numbers: tuple[int, ...]
    """The number of each problem's first row, ascending."""
    hash: str
    """Hash of the problems in their order, each once: 16 hexadecimal digits."""

    @property
    def num_dropped(self) -> int:
        """Return the number of rows that were left out."""
        return sum(row is None for row in self.rows)

    @property
    def told(self) -> str:
        """The counts, for people: "960 rows, 30 problems"."""
        dropped = f" ({self.num_dropped} of the rows left out: they cannot be scored)" if self.num_dropped else ""
        return f"{len(self.rows)} rows, {len(self.numbers)} problems{dropped}"

    def at(self, number: int) -> TaskT:
        """Return the task of a row.

        Raises:
            ValueError: if there is no such row, or it was left out.
        """
        if number >= len(self.rows):
            refuse("row", number, f"0 to {len(self.rows) - 1}, the rows of {self.path}", "pass one of these")
        row = self.rows[number]
        if row is None:
            refuse(
                "row", number, f"rows of {self.path} that can be scored", "pass another", because="which was left out"
            )
        return row

    def draw(self, rng: np.random.Generator) -> int:
        """Return the number of a row; all problems are equally likely, however many rows each has."""
        return self.numbers[int(rng.integers(len(self.numbers)))]

    def check_hash(self, expected: str) -> None:
        """Raise a ValueError unless the hash is the expected one; "" accepts any."""
        if expected not in ("", self.hash):
            refuse(
                "rows_hash",
                expected,
                f"{self.hash}, the hash of {self.path} now",
                "bring back the file that the run began with, or begin a new run",
                because="but the file holds other problems now",
            )


def find_problems(
    path: str,
    convert: Callable[[dict[str, Any]], TaskT],
    unscorable: str,
    *,
    find_faults: Callable[[Mapping[int, TaskT]], Mapping[int, str]] = lambda rows: {},
    are_same: Callable[[TaskT, TaskT], bool] = lambda first, second: False,
    has_one_truth: bool = True,
) -> Problems[TaskT]:
    """Read a file, refuse or leave out the rows that cannot be scored, and group rows that are the same problem.

    Rows are the same problem if question and truth differ only in white space.

    Args:
        path: the file.
        convert: row -> task; raises an `UnscorableRow` where the answer is at fault, any other ValueError otherwise.
        unscorable: "refuse", or "drop" to leave such rows out.
        find_faults: rows by number -> the reasons of those that cannot be scored.
        are_same: says whether two tasks of one question whose truths are written differently agree after all.
        has_one_truth: True if a question with two truths cannot be scored; otherwise it is two problems.

    Raises:
        ValueError: see `iter_rows`; a row is not a task; rows cannot be scored and are not left out, or none is left.
    """
    rows: dict[int, TaskT] = {}
    faults: dict[int, str] = {}
    number = -1
    for number, row in enumerate(iter_rows(path)):
        try:
            rows[number] = convert(row)
        except UnscorableRow as error:
            faults[number] = str(error)
        except ValueError as error:
            raise ValueError(f"{path}, row {number} (counted from 0): {error}") from error
    found = find_faults(rows)
    faults |= found
    good = {number: row for number, row in rows.items() if number not in found}
    questions = _group(good, are_same)
    if has_one_truth:
        faults |= _contradictions(good, questions)
    if faults and (unscorable != DROP or len(faults) == number + 1):
        raise ValueError(_refusal(path, faults, number + 1))
    kept = [good.get(each) if each not in faults else None for each in range(number + 1)]
    firsts = sorted(problem[0] for problems in questions for problem in problems)
    numbers = tuple(first for first in firsts if kept[first] is not None)
    return Problems(path, tuple(kept), numbers, _hash([good[first] for first in numbers]))


def same_text(text: str) -> str:
    """Return the text with single spaces for all white space, for comparing."""
    return " ".join(text.split())


def _group(rows: Mapping[int, TaskT], are_same: Callable[[TaskT, TaskT], bool]) -> list[list[list[int]]]:
    """Return the numbers of the rows by question, and within a question by truth."""
    by_question: dict[str, list[int]] = {}
    # equal rows are often one object, whose text is made only once
    texts: dict[int, str] = {}
    for number, row in rows.items():
        if id(row) not in texts:
            texts[id(row)] = same_text(row.question)
        by_question.setdefault(texts[id(row)], []).append(number)
    questions = []
    for numbers in by_question.values():
        problems: list[list[int]] = []
        place: dict[str, list[int]] = {}
        for number in numbers:
            truth = same_text(rows[number].truth) if len(numbers) > 1 else ""
            if truth not in place:
                same = (problem for problem in problems if are_same(rows[problem[0]], rows[number]))
                place[truth] = next(same, [])
                if not place[truth]:
                    problems.append(place[truth])
            place[truth].append(number)
        questions.append(problems)
    return questions


def _contradictions(rows: Mapping[int, TaskT], questions: Sequence[Sequence[Sequence[int]]]) -> dict[int, str]:
    """Return the fault of each row whose question has more than one truth."""
    faults: dict[int, str] = {}
    for first, second, *others in (problems for problems in questions if len(problems) > 1):
        shown = f"{_short(rows[first[0]].truth)} and {_short(rows[second[0]].truth)}"
        why = f"rows {first[0]} and {second[0]} ask the same and have different answers, {shown}; keep the right one"
        faults |= dict.fromkeys([number for problem in (first, second, *others) for number in problem], why)
    return faults


def _refusal(path: str, faults: Mapping[int, str], num_rows: int) -> str:
    """Return one message for all rows that cannot be scored."""
    first = min(faults)
    remedy = 'or leave such rows out with unscorable="drop"' if len(faults) < num_rows else "none would be left"
    if len(faults) == 1:
        return f"{path}, row {first} (counted from 0): {faults[first]}; {remedy}"
    # rows of one question share a text, which is shown once
    firsts = {text: number for number, text in sorted(faults.items(), reverse=True)}
    shown = [f"row {number}: {text}" for text, number in sorted(firsts.items(), key=lambda item: item[1])]
    more = [f"and {len(shown) - NUM_SHOWN} more"] if len(shown) > NUM_SHOWN else []
    return (
        f"{path}, row {first} (counted from 0) and others, {len(faults)} of {num_rows} rows, cannot be scored:\n  "
        + "\n  ".join([*shown[:NUM_SHOWN], *more])
        + f"\nmend them, {remedy}"
    )


def _hash(rows: Sequence[TaskT]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        for text in (same_text(row.question), same_text(row.truth)):
            digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()[:16]


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
