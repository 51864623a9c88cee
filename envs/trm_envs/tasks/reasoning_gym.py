"""`trm/ReasoningGym-v0`: questions of one of reasoning-gym's procedural sets, one after the other, with Python.

The questions of an episode come from one seed; the next one follows, whatever the last answer was. The reward is 1 if
the set's own scorer gives every answer 1, else 0; the mean of its scores is among the episode's numbers.

Sets and scorers run in worker processes that can be killed, with a deadline in processor time and a second try on a
fresh worker. A scorer that raises, hangs or dies on a model's text, or gives no score from 0 to 1, is asked about the
set's own answer, or about an empty one where the set has none: if that has a score, the text was at fault and is wrong,
else it is a `VerifierError`, as it is if something outside kills the worker. A policy gains nothing by breaking a
scorer.
"""

import atexit
import dataclasses
import functools
import importlib.util
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trm_envs.errors import InfrastructureError, VerifierError
from trm_envs.python_tool import PythonToolEnv, SandboxOptions
from trm_envs.scoring import plain_answer
from trm_envs.scoring.pool import WorkerCrashed, WorkerLost, WorkerPool, WorkerTimeout

MAX_WORKERS = 2
# A worker takes seconds to start, and its caches are bounded.
MAX_JOBS = 100_000
MAX_ANSWER_CHARS = 10_000
ITEM_DEADLINE_S = 60.0
SCORE_DEADLINE_S = 5.0
WORKER = (sys.executable, str(Path(__file__).with_name("reasoning_gym_worker.py")))
# Scorers that measure a distance take a distance to "nan" for zero.
_NO_NUMBER = re.compile(r"(?<![a-z])(nan|inf|infinity)j?(?![a-z])", re.IGNORECASE)
# Sets whose scorer counts only the integers of an answer: symbols and constants would make any number of none.
_FORMS = {"countdown": re.compile(r"(?!.*(\*\*|//))[0-9+\-*/() ]*")}
# Sets in whose scorer one text, or one that is copied off the question, is right for every question, in version 0.1.25.
ONE_ANSWER_FITS_ALL = {
    "coin_flip": '"0" nearly always',
    "game_of_life_halting": "any text",
    "propositional_logic": "the question's own premises, joined by and,",
    "puzzle24": "any four numbers that make 24",
}
MISSING = "reasoning-gym is missing; install it with: pip install 'trm-agent[bridges]'"


@dataclasses.dataclass(frozen=True)
class ReasoningGymOptions(SandboxOptions):
    """Options of ReasoningGym.

    Raises:
        ValueError: if a value is not allowed.
    """

    dataset: str = "chain_sum"
    """Name of one of reasoning-gym's sets."""
    dataset_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of the set's configuration, without `seed` and `size`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.dataset, str):
            raise ValueError(f'dataset = {self.dataset!r}: expected a name; e.g. dataset="chain_sum"')
        if self.dataset in ONE_ANSWER_FITS_ALL:
            raise ValueError(
                f"dataset: got {self.dataset!r}, whose own scorer takes {ONE_ANSWER_FITS_ALL[self.dataset]} for right, "
                "whatever it asked; allowed: a set in which an answer has to fit its question; take another one"
            )
        try:
            assert isinstance(self.dataset_options, Mapping)
            json.dumps(dict(self.dataset_options))
        except (AssertionError, TypeError, ValueError) as error:
            raise ValueError(
                f"dataset_options = {self.dataset_options!r}: expected a mapping of JSON values; "
                'e.g. {"min_terms": 2}'
            ) from error


class ReasoningGym(PythonToolEnv[ReasoningGymOptions]):
    """The environment; see the module's docstring.

    Args:
        **options: see `ReasoningGymOptions`; `horizon` is the number of questions.

    Raises:
        ModuleNotFoundError: if reasoning-gym is not installed.
        ValueError: if there is no such set, or an option is not allowed.
    """

    options_class = ReasoningGymOptions
    system_prompt = "Answer the questions, one after the other; Python may help. Give each answer as {answer}."

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._check_set()

    def make_task(self) -> str:
        """Draw the questions; return the first."""
        self._check_set()
        self._seed = int(self.np_random.integers(2**31))
        self._items = [self._ask_item(index) for index in range(self.options.horizon)]
        self._scores: list[float] = []
        questions, answers = ([item[part] for item in self._items] for part in ("question", "answer"))
        self.expected_answer = None if None in answers else "\n".join(answers)
        self.task_key = json.dumps([self.options.dataset, dict(self.options.dataset_options), questions])
        return self._question()

    def follow_answer(self, answer: str) -> str | None:
        """Return the next question, or None after the last."""
        if len(self._scores) == self.options.horizon - 1:
            return None
        self._scores.append(self._grade(answer))
        return self._question()

    def score(self, answer: str) -> float:
        """Return 1.0 if every answer has the score 1.0, else 0.0."""
        self._scores.append(self._grade(answer))
        return float(all(score == 1.0 for score in self._scores))

    def solution(self) -> str:
        """Return the set's own answer; some sets have none."""
        answer = self._items[len(self._scores)]["answer"]
        if answer is None:
            raise NotImplementedError(f"{self.options.dataset} has no answers of its own")
        return self.answer(answer)

    def numbers(self) -> dict[str, float]:
        """Return the mean of the set's scores."""
        return {"mean_score": sum(self._scores) / len(self._scores)}

    def _question(self) -> str:
        number = len(self._scores)
        return f"Question {number + 1} of {self.options.horizon}:\n{self._items[number]['question']}"

    def _place(self, index: int) -> dict[str, Any]:
        options = dict(self.options.dataset_options)
        return {
            "dataset": self.options.dataset, "options": options, "seed": self._seed, "size": self.options.horizon,
            "index": index,
        }  # fmt: skip

    def _check_set(self) -> None:
        _check_set(self.options.dataset, json.dumps(dict(self.options.dataset_options)))

    def _ask_item(self, index: int) -> dict[str, Any]:
        place = self._place(index)
        reply = _make({"operation": "item", **place})
        if "error" in reply:
            raise InfrastructureError(f"{self.options.dataset} makes no question of {place}: {reply['error']}")
        return reply

    def _grade(self, answer: str) -> float:
        """Return the set's score of an answer to the present question, as it stands or without its maths mode."""
        score, plain = self._grade_text(answer), plain_answer(answer)
        return score if score == 1.0 or plain == answer else max(score, self._grade_text(plain))

    def _grade_text(self, answer: str) -> float:
        if len(answer) > MAX_ANSWER_CHARS:
            return 0.0
        index = len(self._scores)
        own = self._items[index]["answer"]
        form = _FORMS.get(self.options.dataset)
        if form is not None and not form.fullmatch(answer):
            return 0.0
        if own is not None and _NO_NUMBER.search(answer) and not _NO_NUMBER.search(own):
            return 0.0
        score, problem = _ask_score(self._place(index), answer)
        if score is not None:
            return score
        # a set without answers of its own can at least score an empty one
        if _ask_score(self._place(index), own or "")[0] is not None:
            return 0.0
        raise VerifierError(f"the scorer of {self.options.dataset} fails on its own answer, too: {problem}")


def close_workers() -> None:
    """End this process's workers; the next call starts new ones."""
    pool = _pools.pop(os.getpid(), None)
    if pool is not None:
        pool.close()


@functools.cache  # of allowed sets alone: an exception is not cached
def _check_set(dataset: str, options: str) -> None:
    if importlib.util.find_spec("reasoning_gym") is None:
        raise ModuleNotFoundError(MISSING)
    reply = _make({"operation": "check", "dataset": dataset, "options": json.loads(options)})
    if "refused" in reply:
        raise ValueError(reply["refused"])


def _ask_score(place: dict[str, Any], answer: str) -> tuple[float | None, str]:
    """Return the score of an answer, or None and the reason.

    Raises:
        VerifierError: if the worker was lost to something outside.
    """
    try:
        reply = _ask({"operation": "score", **place, "answer": answer}, SCORE_DEADLINE_S)
    except (WorkerTimeout, WorkerCrashed) as error:
        if isinstance(error, WorkerLost):
            raise VerifierError(f"reasoning-gym's {place['dataset']}: {error}") from error
        return None, str(error)
    score = reply.get("score")
    if isinstance(score, int | float) and 0.0 <= score <= 1.0:
        return float(score), ""
    return None, str(reply.get("error", f"the score is {score!r}, not from 0 to 1"))


def _make(request: dict[str, Any]) -> dict[str, Any]:
    """Send a request that holds nothing of a model's.

    Raises:
        InfrastructureError: if the worker hangs or dies.
    """
    try:
        return _ask(request, ITEM_DEADLINE_S)
    except (WorkerTimeout, WorkerCrashed) as error:
        raise InfrastructureError(f"reasoning-gym's {request['dataset']}, {request['operation']}: {error}") from error


def _ask(request: dict[str, Any], deadline_s: float) -> dict[str, Any]:
    pool = _pools.get(os.getpid())
    if pool is None:
        atexit.register(close_workers)
        # Atomic; a pool that loses the race has started nothing.
        pool = _pools.setdefault(os.getpid(), WorkerPool(min(MAX_WORKERS, os.cpu_count() or 1), WORKER, MAX_JOBS))
    try:
        return pool.call(request, deadline_s)
    except RuntimeError as error:
        raise InfrastructureError(f"reasoning-gym's workers: {error}") from error


# One pool per process, by process id: a forked child must not talk through its parent's pipes.
_pools: dict[int, WorkerPool] = {}
