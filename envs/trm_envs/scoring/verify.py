r"""Score a math answer: exact rationals first, then math-verify in a killable process.

What the verifier cannot decide (a hang, a crash, math-verify missing, a truth it cannot read) is `verifier_error`,
never `wrong`. math-verify is the optional extra `math`; without it, plain numbers are scored all the same.
"""

import atexit
import enum
import importlib.util
import math
import os
from dataclasses import dataclass

from trm_envs.scoring.exact import compare_exact
from trm_envs.scoring.extract import extract_answer, is_balanced
from trm_envs.scoring.pool import WorkerCrashed, WorkerPool, WorkerTimeout
from trm_envs.scoring.units import changing_words

MAX_ANSWER_CHARS = 2000
MAX_WORKERS = 4
MISSING = "math-verify is missing, and the answer or the truth is not a plain number: pip install 'trm-agent[math]'"


class Verdict(enum.Enum):
    """How the scoring of one answer ended."""

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
    """How the scoring ended."""
    detail: str
    """What decided it, for people."""

    def __post_init__(self) -> None:
        is_number = isinstance(self.reward, int | float) and not isinstance(self.reward, bool)
        if not is_number or not math.isfinite(self.reward):
            raise ValueError(f"Outcome: reward is {self.reward!r}; it must be a finite number: fix the scorer")


def score_math(
    answer_text: str, truth: str, *, deadline_s: float = 5.0, pool: WorkerPool | None = None, bare: bool = False
) -> Outcome:
    r"""Score a model's text against the true answer. Blocks, so an event loop calls it in a thread.

    Args:
        answer_text: the model's text; its last box counts, else its last answer tag.
        truth: the true answer, in LaTeX or plain, with or without a box.
        deadline_s: how long math-verify may think about one answer, in seconds; starting its process is not counted.
        pool: where math-verify runs; None means a pool of this process.
        bare: True if `answer_text` is the answer itself where it holds neither box nor tag.

    Returns:
        The outcome; whatever the model wrote, nothing is raised.

    Raises:
        ValueError: if the truth is empty or too long, or the deadline is not a positive, finite number.
        RuntimeError: if `pool` is closed.
    """
    true_answer = extract_answer(truth).answer or truth.strip()
    _check(true_answer, deadline_s)
    answer = extract_answer(answer_text).answer
    if answer is None and bare and "\\boxed" not in answer_text:
        answer = answer_text.strip() or None
    if answer is None:
        return Outcome(0.0, Verdict.NO_ANSWER, "no complete box or answer tag")
    if len(answer) > MAX_ANSWER_CHARS:
        return Outcome(0.0, Verdict.WRONG, f"the answer has {len(answer)} characters, more than {MAX_ANSWER_CHARS}")
    if not is_balanced(answer):
        return Outcome(0.0, Verdict.WRONG, "the answer's braces do not balance")
    is_equal = compare_exact(answer, true_answer)
    if is_equal is not None:
        return _decided(is_equal, "compared as exact numbers")
    if answer == true_answer:
        return _decided(True, "the same text")
    if (words := changing_words(answer)) != changing_words(true_answer):
        detail = f"math-verify would drop {words} from the answer or its like from the truth, which changes the value"
        return Outcome(0.0, Verdict.VERIFIER_ERROR, detail)
    return _ask_math_verify(answer, true_answer, deadline_s, pool)


def judge_itself(truth: str, deadline_s: float = 5.0) -> str:
    """Return "" if the truth, compared with itself past the shortcut for identical text, is equal; else why not."""
    true_answer = extract_answer(truth).answer or truth.strip()
    try:
        _check(true_answer, deadline_s)
    except ValueError as error:
        return str(error)
    if compare_exact(true_answer, true_answer):
        return ""
    outcome = _ask_math_verify(true_answer, true_answer, deadline_s, None)
    return "" if outcome.verdict is Verdict.CORRECT else f"compared with itself: {outcome.detail}"


def close_pool() -> None:
    """End this process's math-verify workers; the next call starts new ones."""
    pool = _pools.pop(os.getpid(), None)
    if pool is not None:
        pool.close()


def _check(truth: str, deadline_s: float) -> None:
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


def _ask_math_verify(answer: str, truth: str, deadline_s: float, pool: WorkerPool | None) -> Outcome:
    if pool is None:
        if importlib.util.find_spec("math_verify") is None:
            return Outcome(0.0, Verdict.VERIFIER_ERROR, MISSING)
        pool = _shared_pool()
    try:
        reply = pool.call({"answer": answer, "truth": truth}, deadline_s)
    except (WorkerTimeout, WorkerCrashed) as error:
        return Outcome(0.0, Verdict.VERIFIER_ERROR, str(error))
    if not isinstance(reply.get("equal"), bool):
        return Outcome(0.0, Verdict.VERIFIER_ERROR, str(reply.get("error", "the worker's reply has no verdict")))
    return _decided(reply["equal"], str(reply.get("detail", "")))


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
