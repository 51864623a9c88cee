"""`score_math`: verdicts and rewards; a failure on the answer is the answer's, one outside never is."""

import importlib.util
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from trm_envs.scoring import Outcome, Verdict, WorkerPool, close_pool, score_math

CORRECT, WRONG = Verdict.CORRECT, Verdict.WRONG
BOMB = "9^{9^{9^9}}"
# ready, then one canned reply whatever is asked
SPIN = """
import json, sys
print("{}", flush=True)
for line in sys.stdin:
    pairs = json.loads(line)["pairs"]
    while any(pair[1] != pair[2] for pair in pairs):
        pass
    print(json.dumps({"verdicts": [True for _ in pairs]}), flush=True)
"""
CANNED = "import sys\nprint('{}', flush=True)\nfor line in sys.stdin: print(sys.argv[1], flush=True)"


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    pytest.importorskip("math_verify", reason="pip install 'trm-agent[math]'")
    pool = WorkerPool(1)
    yield pool
    pool.close()


@pytest.fixture
def closed() -> WorkerPool:
    """A pool that raises when it is asked: who passes with it has not used math-verify."""
    pool = WorkerPool(1)
    pool.close()
    return pool


@pytest.mark.parametrize(
    ("answer", "truth", "verdict"),
    [
        ("\\frac{2}{\\sqrt{2}}", "\\sqrt{2}", CORRECT),
        ("\\sqrt{4}", "2", CORRECT),
        ("\\sqrt{5}", "2", WRONG),
        ("1+2x", "2x+1", CORRECT),
        ("x = 5", "5", CORRECT),
        ("5\\text{ apples}", "5", CORRECT),
        ("\\sqrt{4}\\text{ million}", "2\\text{ million}", CORRECT),
        ("(1, 2)", "(1,2)", CORRECT),
        ("(1, 3)", "(1,2)", WRONG),
        ("[1, 2)", "(1, 2)", WRONG),
        ("\\{2, 1\\}", "\\{1, 2\\}", CORRECT),
        ("\\{5, 6\\}", "5", WRONG),
        ("1,2", "12", WRONG),
        ("\\infty", "-\\infty", WRONG),
        ("\\frac{1}{0}", "0", WRONG),
        ("I do not know", "5", WRONG),
        ("__import__('os')._exit(3)", "5", WRONG),
        # math-verify alone calls each of the next four equal
        ("\\frac{1}{2004!}", "\\frac{1}{2006!}", WRONG),
        ("2^{-99} + 0", "2^{-98}", WRONG),
        ("x = 2^{-99}", "x = 2^{-98}", WRONG),
        ("(2^{-99}, 1)", "(2^{-98}, 1)", WRONG),
        # and these tiny values are equal
        ("\\frac{1}{2004!}", "\\frac{2005}{2005!}", CORRECT),
        ("(\\sqrt{2})^2 - 2", "0 + 0", CORRECT),
        # but a truth without a sum takes none
        ("(\\sqrt{2})^2 - 2", "0", WRONG),
    ],
)
def test_math_verify_decides_what_is_not_a_number(pool: WorkerPool, answer: str, truth: str, verdict: Verdict) -> None:
    outcome = score_math(f"\\boxed{{{answer}}}", truth, pool=pool)
    assert outcome.verdict is verdict, outcome.detail
    assert outcome.reward == (1.0 if verdict is CORRECT else 0.0)


def test_a_bomb_is_wrong_before_anything_evaluates_it(closed: WorkerPool) -> None:
    deep = "(" * 900 + "1" + ")" * 900
    start = time.process_time()
    for bomb in (BOMB, "1000000000!", "10^{10^{10}}", "2^{2^{2^{2^{2^{2}}}}}", deep, "\\binom{10^9}{5}"):
        assert score_math(f"\\boxed{{{bomb}}}", "5", pool=closed).verdict is WRONG
    assert time.process_time() - start < 0.5


def test_a_worker_that_uses_its_time_up_on_the_answer_makes_the_answer_wrong() -> None:
    # The truth against itself is answered; anything else spins.
    pool = WorkerPool(1, (sys.executable, "-S", "-c", SPIN))
    outcome = score_math("\\boxed{\\sqrt{x+2}}", "\\sqrt{x+1}", pool=pool, deadline_s=0.2)
    assert outcome.verdict is WRONG
    assert "no reply within 0.2 s of processor time" in outcome.detail
    pool.close()


def test_a_truth_that_is_of_no_form_is_not_a_wrong_answer(closed: WorkerPool) -> None:
    for truth in ("\\%", "The answer is 42.", "#### 5 (in one line)", "\\begin{cases} 1 \\\\ 2 \\end{cases}"):
        outcome = score_math("\\boxed{5}", truth, pool=closed)
        assert outcome.verdict is Verdict.VERIFIER_ERROR
        assert "truth" in outcome.detail


def test_threads_get_their_own_verdicts(pool: WorkerPool) -> None:
    def score(number: int) -> Verdict:
        # sqrt(n^2) is n; every other text asks for n + 1
        return score_math(f"\\boxed{{\\sqrt{{{number**2}}}}}", str(number + number % 2), pool=pool).verdict

    with ThreadPoolExecutor(16) as threads:
        verdicts = list(threads.map(score, range(2, 34)))
    assert verdicts == [CORRECT, WRONG] * 16


@pytest.mark.parametrize(
    ("text", "truth", "verdict"),
    [
        ("\\boxed{3} wait, \\boxed{0.50}", "\\frac12", CORRECT),
        ("\\boxed{0.5} wait, \\boxed{3}", "\\frac12", WRONG),
        ("<answer>1,000</answer>", "$1000$", CORRECT),
        ("\\boxed{42}", "The answer is \\boxed{42}.", CORRECT),
        ("\\boxed{1e-9}", "0", WRONG),
        ("\\boxed{\\text{(B)}}", "\\text{(B)}", CORRECT),
        ("it is 5", "5", Verdict.NO_ANSWER),
        ("\\boxed{}", "5", Verdict.NO_ANSWER),
        ("\\boxed{5", "5", Verdict.NO_ANSWER),
        ("", "5", Verdict.NO_ANSWER),
        ("<answer>5} \\text{</answer>", "5", WRONG),
        ("\\boxed{" + "9" * 2**20 + "}", "5", WRONG),
    ],
)
def test_plain_answers_never_reach_math_verify(closed: WorkerPool, text: str, truth: str, verdict: Verdict) -> None:
    outcome = score_math(text, truth, pool=closed)
    assert outcome.verdict is verdict
    assert outcome.reward == (1.0 if verdict is CORRECT else 0.0)


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("5\\text{ million}", "5"),
        ("5", "5\\text{ million}"),
        ("5\\text{ or 6}", "5"),
        ("5\\mathrm{\\ dozen}", "5"),
        ("5\\text{ is not it, six is}", "5"),
    ],
)
def test_words_that_change_the_value_are_not_dropped(closed: WorkerPool, answer: str, truth: str) -> None:
    assert score_math(f"\\boxed{{{answer}}}", truth, pool=closed).verdict is WRONG


@pytest.mark.parametrize(
    ("text", "verdict"),
    [("5", CORRECT), ("\\boxed{5}", CORRECT), ("\\boxed{6} 5", WRONG), ("\\boxed{5", Verdict.NO_ANSWER)],
)
def test_a_bare_answer_needs_no_box(closed: WorkerPool, text: str, verdict: Verdict) -> None:
    assert score_math(text, "5", pool=closed, bare=True).verdict is verdict


@pytest.mark.parametrize(
    "reply",
    ['{"verdicts": [1]}', '{"verdicts": ["yes"]}', '{"verdicts": []}', '{"error": "boom"}', "[]", "true", "NaN", ""],
)
def test_a_reply_without_a_verdict_is_a_verifier_error(reply: str) -> None:
    pool = WorkerPool(1, (sys.executable, "-S", "-c", CANNED, reply))
    assert score_math("\\boxed{\\sqrt{x}}", "2\\sqrt{y}", pool=pool).verdict is Verdict.VERIFIER_ERROR
    pool.close()


def test_a_crashed_verifier_is_not_a_wrong_answer() -> None:
    pool = WorkerPool(1, (sys.executable, "-S", "-c", "print('{}', flush=True); input(); raise SystemExit(4)"))
    outcome = score_math("\\boxed{\\sqrt{x}}", "2\\sqrt{y}", pool=pool)
    assert outcome.verdict is Verdict.VERIFIER_ERROR
    assert "the worker ended with exit code 4; the truth fails too" in outcome.detail
    pool.close()


def test_without_math_verify_numbers_are_scored_and_the_rest_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    close_pool()
    assert score_math("\\boxed{0.5}", "1/2").verdict is CORRECT
    outcome = score_math("\\boxed{\\sqrt{4}}", "2")
    assert outcome.verdict is Verdict.VERIFIER_ERROR
    assert "pip install 'trm-agent[math]'" in outcome.detail


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), float("-inf"), True, "1"])
def test_a_reward_that_is_no_finite_number_is_refused(reward: float) -> None:
    with pytest.raises(ValueError, match="must be a finite number"):
        Outcome(reward, CORRECT, "")


@pytest.mark.parametrize(
    ("truth", "deadline_s", "reason"),
    [
        (" ", 1.0, "truth is empty"),
        ("9" * 3000, 1.0, "3000 characters"),
        ("\\frac{1", 1.0, "balanced braces"),
        ("5", 0.0, "deadline_s is 0.0"),
        ("5", float("nan"), "deadline_s is nan"),
        ("5", float("inf"), "deadline_s is inf"),
    ],
)
def test_a_bad_task_is_refused(truth: str, deadline_s: float, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        score_math("\\boxed{5}", truth, deadline_s=deadline_s)
