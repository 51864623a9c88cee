r"""Score a math answer: exact rationals first, then its form, with algebra in killable processes.

An answer on which scoring fails is wrong, as long as the truth can be judged against itself. `verifier_error` is left
for a truth that cannot, for workers that are killed from outside, and for math-verify missing. It is the optional extra
`math`; without it, numbers, words and collections of these are scored all the same. docs/scoring.md has the rules.
"""

import atexit
import enum
import functools
import importlib.util
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from trm_envs.scoring.exact import compare_exact
from trm_envs.scoring.extract import extract_answer, is_balanced
from trm_envs.scoring.judge import Pair, Undecided, same_form
from trm_envs.scoring.pool import WorkerCrashed, WorkerLost, WorkerPool, WorkerTimeout
from trm_envs.scoring.read import read_form, read_truth
from trm_envs.scoring.spelling import trim_end

MAX_ANSWER_CHARS = 2000
MAX_WORKERS = 4
MISSING = "math-verify is missing, and the answer or the truth is not a plain number: pip install 'trm-agent[math]'"


class Verdict(enum.Enum):
    """The end of the scoring of one answer."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    VERIFIER_ERROR = "verifier_error"


@dataclass(frozen=True)
class Outcome:
    """The score of one answer.

    Raises:
        ValueError: if the reward is not a finite number.
    """

    reward: float
    """1.0 for a correct answer, else 0.0; finite."""
    verdict: Verdict
    """The end of the scoring."""
    detail: str
    """The reason, for people."""

    def __post_init__(self) -> None:
        is_number = isinstance(self.reward, int | float) and not isinstance(self.reward, bool)
        if not is_number or not math.isfinite(self.reward):
            raise ValueError(f"Outcome: reward is {self.reward!r}; it must be a finite number: fix the scorer")


def score_math(
    answer_text: str,
    truth: str,
    *,
    deadline_s: float = 5.0,
    pool: WorkerPool | None = None,
    bare: bool = False,
    tolerance: float | None = None,
) -> Outcome:
    r"""Score a model's text against the true answer. Blocks, so an event loop calls it in a thread.

    Args:
        answer_text: the model's text; its last box counts, else its last answer tag.
        truth: the true answer, in LaTeX or plain, with or without a box.
        deadline_s: the processor time that one answer may use, in seconds; starting a process is not counted.
        pool: the workers that run math-verify; None means a pool of this process.
        tolerance: the largest distance of a number from the true one; None or 0 compares exactly, decimals too.
        bare: True if `answer_text` is the answer itself where it holds neither box nor tag.

    Returns:
        The outcome; whatever the model wrote, nothing is raised.

    Raises:
        ValueError: if the truth is empty or too long, or the deadline is not a positive, finite number.
        RuntimeError: if `pool` is closed.
    """
    true_answer = _true_answer(truth)
    _check(true_answer, deadline_s, tolerance)
    answer = extract_answer(answer_text).answer
    if answer is None and bare and "\\boxed" not in answer_text:
        answer = trim_end(answer_text) or None
    if answer is None:
        return Outcome(0.0, Verdict.NO_ANSWER, "no complete box or answer tag")
    if len(answer) > MAX_ANSWER_CHARS:
        return _decided(False, f"the answer has {len(answer)} characters, more than {MAX_ANSWER_CHARS}")
    if answer == true_answer:
        return _decided(True, "the same text")
    if not is_balanced(answer):
        return _decided(False, "the answer's braces do not balance")
    is_equal = None if tolerance else compare_exact(answer, true_answer)
    if is_equal is not None:
        return _decided(is_equal, "compared as exact numbers")
    return _compare(answer, true_answer, Algebra(pool, deadline_s), Fraction(tolerance) if tolerance else None)


def judge_itself(truth: str, *, deadline_s: float = 5.0, pool: WorkerPool | None = None) -> str:
    """Return "" if the truth, compared with itself past the shortcut for identical text, is equal; else why not."""
    true_answer = _true_answer(truth)
    try:
        _check(true_answer, deadline_s, None)
        form = read_truth(true_answer)
        is_equal = same_form(form, form, Algebra(pool, deadline_s), asks_always=True)
    except (ValueError, RecursionError, OverflowError, Undecided) as error:
        return str(error)
    except (WorkerTimeout, WorkerCrashed) as error:
        return f"compared with itself: {error}"
    return "" if is_equal else "compared with itself it is not equal"


def close_pool() -> None:
    """End this process's math-verify workers; the next call starts new ones."""
    pool = _pools.pop(os.getpid(), None)
    if pool is not None:
        pool.close()


def _check(truth: str, deadline_s: float, tolerance: float | None) -> None:
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"score_math: tolerance is {tolerance!r}; it must be a finite number from 0, such as 1e-6")
    if not truth:
        raise ValueError("score_math: truth is empty; give the task's true answer")
    if len(truth) > MAX_ANSWER_CHARS or not is_balanced(truth):
        shown = f"{truth[:60]!r} ({len(truth)} characters)"
        raise ValueError(
            f"score_math: truth is {shown}; it must have at most {MAX_ANSWER_CHARS} characters and balanced braces: "
            "give the final answer alone"
        )
    if not (math.isfinite(deadline_s) and deadline_s > 0):
        raise ValueError(f"score_math: deadline_s is {deadline_s!r}; it must be a finite number above 0, such as 5.0")


def _compare(answer: str, truth: str, algebra: "Algebra", tolerance: Fraction | None) -> Outcome:
    """Compare two answers by their forms. A failure on the answer is the answer's, if the truth equals itself."""
    try:
        truth_form = read_truth(truth)
    except (ValueError, RecursionError, OverflowError) as error:
        return Outcome(0.0, Verdict.VERIFIER_ERROR, f"the truth cannot be scored: {error}")
    try:
        answer_form = read_form(answer)
    except (ValueError, RecursionError, OverflowError) as error:
        return _decided(False, f"the answer cannot be read: {error}")
    try:
        is_equal = same_form(truth_form, answer_form, algebra, tolerance)
    except (Undecided, WorkerTimeout, WorkerCrashed) as error:
        return _blame(error, truth, algebra)
    return _decided(is_equal, "compared by value" if algebra.is_asked else "compared by form")


def _blame(error: Exception, truth: str, algebra: "Algebra") -> Outcome:
    """Return the outcome of a comparison that failed: wrong, unless the truth fails too or workers are lost."""
    if isinstance(error, WorkerLost) or str(error) == MISSING:
        return Outcome(0.0, Verdict.VERIFIER_ERROR, str(error))
    reason = judge_itself(truth, deadline_s=algebra.deadline_s, pool=algebra.pool)
    if reason:
        return Outcome(0.0, Verdict.VERIFIER_ERROR, f"{error}; the truth fails too: {reason}")
    return _decided(False, f"the answer cannot be compared: {error}")


class Algebra:
    """A judge of pairs of expressions: math-verify's grammar and sympy, in killable processes."""

    def __init__(self, pool: WorkerPool | None, deadline_s: float) -> None:
        self.pool = pool
        self.deadline_s = deadline_s
        self.is_asked = False

    def __call__(self, pairs: Sequence[Pair]) -> Sequence[bool]:
        self.is_asked = True
        if self.pool is None and importlib.util.find_spec("math_verify") is None:
            raise Undecided(MISSING)
        pool = _shared_pool() if self.pool is None else self.pool
        reply = pool.call({"pairs": pairs}, self.deadline_s)
        verdicts = reply.get("verdicts")
        if not isinstance(verdicts, list) or len(verdicts) != len(pairs):
            raise Undecided(str(reply.get("error", "the worker's reply has no verdict")))
        if not all(isinstance(verdict, bool) for verdict in verdicts):
            raise Undecided("the worker's reply has no verdict")
        return verdicts


@functools.lru_cache(maxsize=8192)
def _true_answer(truth: str) -> str:
    return extract_answer(truth).answer or trim_end(truth)


def _decided(is_equal: bool, detail: str) -> Outcome:
    return Outcome(1.0, Verdict.CORRECT, detail) if is_equal else Outcome(0.0, Verdict.WRONG, detail)


# One pool a process, by process id: a forked child must not talk through its parent's pipes.
_pools: dict[int, WorkerPool] = {}


def _shared_pool() -> WorkerPool:
    process_id = os.getpid()
    if process_id not in _pools:
        atexit.register(close_pool)
    # Atomic, and a pool that loses the race has started nothing.
    return _pools.setdefault(process_id, WorkerPool(min(MAX_WORKERS, os.cpu_count() or 1)))
