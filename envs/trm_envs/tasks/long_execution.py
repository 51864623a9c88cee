r"""`trm/LongExecution-v0`: carry a running sum over many turns.

The first message gives values to some words, and names the first words to add; every answer, right or wrong, is
followed by the next words, until `horizon` turns are over. The only difficulty is to make no slip. (The idea is that of
arXiv 2509.09677: long tasks fail in their execution, and an early slip makes later ones likelier.)

An answer that is not an integer is wrong for its turn, and the episode goes on. A turn without an answer does not
count.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trm_envs.base import ToolEnv
from trm_envs.options import EnvOptions, check_choice, check_integer
from trm_envs.tasks.integers import read_integer

SCORES = ("all", "last")
MAX_VALUE = 99
WORDS = tuple(
    """
    apple beach bread brick brush cabin candy chain chair chalk charm chess cliff clock cloud coral couch crane cream
    crown daisy dance dough dream dress drift eagle earth elbow fence field flame flute frost fruit ghost glass globe
    glove grape grass green guard heart honey horse hotel house ivory jelly jewel juice knife ladle lemon light linen
    maple march medal melon metal mouse mouth music night north novel ocean olive onion opera organ otter paint panda
    paper peach pearl piano pilot plant plate poppy queen quilt radio river robin rocky salad scarf shark sheep shell
    shirt skate slope smoke snail snake spoon stamp steam stone storm straw sugar sunny swing sword table thumb tiger
    toast torch tower train truck tulip uncle vault video viola voice wagon watch water whale wheat wheel world zebra
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True)
class LongExecutionOptions(EnvOptions):
    """Options of LongExecution.

    Raises:
        ValueError: if a value is not allowed.
    """

    keys_per_turn: int = 1
    """Number of words per turn."""
    num_words: int = 50
    """Number of words with a value."""
    score_by: str = "all"
    """Condition of the reward: "all" answers right, or the "last" one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("num_words", self.num_words, 1, len(WORDS))
        check_integer("keys_per_turn", self.keys_per_turn, 1, self.num_words)
        check_choice("score_by", self.score_by, SCORES)


class LongExecution(ToolEnv[LongExecutionOptions]):
    """The environment; see the module's docstring.

    Args:
        **options: defaults for the fields of `LongExecutionOptions`.
    """

    options_class = LongExecutionOptions
    system_prompt = "Keep a running sum: add the values of the words of each turn, and give the new sum as {answer}."
    answer_form = "integer"

    def make_task(self) -> str:
        """Draw the values and the words of all turns; return the first message."""
        options, rng = self.options, self.np_random
        self._values = draw_values(rng, options.num_words)
        names = list(self._values)
        self._turns = [
            [names[int(i)] for i in rng.choice(len(names), size=options.keys_per_turn, replace=False)]
            for _ in range(options.horizon)
        ]
        added = (sum(self._values[word] for word in words) for words in self._turns)
        self._sums = list(itertools.accumulate(added))
        self.expected_answer = ", ".join(map(str, self._sums))
        self._given: list[int | None] = []
        values = ", ".join(f"{word} {value}" for word, value in self._values.items())
        first_message = f"Values: {values}.\nThe sum starts at 0. {self._ask()}"
        self.task_key = "\n".join([first_message, *map(" ".join, self._turns)])
        return first_message

    def follow_answer(self, answer: str) -> str | None:
        """Note the answer; return the next turn's words, or None after the last turn."""
        self._given.append(read_integer(answer))
        return self._ask() if len(self._given) < len(self._turns) else None

    def score(self, answer: str) -> float:
        """Return 1.0 if all sums were right, or with `score_by="last"` if this one is; else 0.0."""
        right = [given == true for given, true in zip(self._given, self._sums, strict=True)]
        return float(all(right) if self.options.score_by == "all" else right[-1])

    def numbers(self) -> dict[str, float]:
        """Return the episode's measures.

        `turn_accuracy`: the fraction of the sums that were right. `step_accuracy`: the fraction that were right given
        the model's own last readable sum (0 at first); an unreadable one is wrong. `task_accuracy`: 1 if all were
        right, else 0. `turns_before_error` and `turns_before_error_frac`: the number and the fraction of turns before
        the first wrong sum.
        """
        right = [given == true for given, true in zip(self._given, self._sums, strict=True)]
        num_first = right.index(False) if False in right else len(right)
        return {
            "turn_accuracy": sum(right) / len(right),
            "step_accuracy": num_right_steps(self._given, self._sums) / len(right),
            "task_accuracy": float(all(right)),
            "turns_before_error": float(num_first),
            "turns_before_error_frac": num_first / len(right),
        }

    def solution(self) -> str:
        """Return the right sum of the present turn."""
        return self.answer(str(self._sums[len(self._given)]))

    def _ask(self) -> str:
        return f"Add {', '.join(self._turns[len(self._given)])}."


def draw_values(rng: np.random.Generator, num_words: int) -> dict[str, int]:
    """Draw distinct words, each with a nonzero value from -99 to 99."""
    words = [WORDS[int(i)] for i in rng.choice(len(WORDS), size=num_words, replace=False)]
    return {word: int(rng.integers(1, MAX_VALUE + 1)) * (1 if rng.integers(2) else -1) for word in words}


def num_right_steps(given: Sequence[int | None], sums: Sequence[int]) -> int:
    """Return the number of sums that are right given the last readable one before them.

    Args:
        given: the model's sum after each turn; None if it is not an integer.
        sums: the true sum after each turn.
    """
    count = error = 0
    for value, true in zip(given, sums, strict=True):
        if value is not None:
            count += value - true == error
            error = value - true
    return count
