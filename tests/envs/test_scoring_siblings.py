"""Spellings of tests/envs/scoring_siblings.py, and comparisons without a worker."""

from collections.abc import Iterator

import pytest

from tests.envs.scoring_siblings import RIGHT, WRONG
from trm_envs.scoring import Verdict, WorkerPool, check_truths, functions, score_math


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    pytest.importorskip("math_verify", reason="pip install 'trm-agent[math]'")
    pool = WorkerPool(1)
    yield pool
    pool.close()


@pytest.mark.parametrize("truth", RIGHT)
def test_another_spelling_of_the_value_is_right(pool: WorkerPool, truth: str) -> None:
    for spelling in RIGHT[truth]:
        outcome = score_math(f"\\boxed{{{spelling}}}", truth, pool=pool)
        assert outcome.verdict is Verdict.CORRECT, (spelling, outcome.detail)


@pytest.mark.parametrize("truth", WRONG)
def test_what_looks_like_a_spelling_is_wrong(pool: WorkerPool, truth: str) -> None:
    for answer in WRONG[truth]:
        outcome = score_math(f"\\boxed{{{answer}}}", truth, pool=pool)
        assert outcome.verdict is Verdict.WRONG, (answer, outcome.detail)


@pytest.mark.parametrize(
    "truth", ["\\max(x,100)", "\\min(x,y)", "\\gcd(n,6)", "\\lcm(2,x)", "\\operatorname{max}(x,1)"]
)
def test_a_truth_that_picks_among_variables_is_refused_with_the_reason(truth: str) -> None:
    assert "is not scored; give its value" in check_truths([truth])[0]


def test_no_answer_fits_the_points_of_comparison_of_another_process() -> None:
    # (x-a)(x-b) is 0 at the two points of this process, where the truth plus it is the truth
    points = [int(functions._coordinate("x", turn)) for turn in range(functions.NUM_POINTS)]
    answer = f"\\boxed{{x+(x-{points[0]})(x-{points[1]})}}"
    assert score_math(answer, "x").verdict is Verdict.CORRECT
    functions._coordinate.cache_clear()
    assert score_math(answer, "x").verdict is Verdict.WRONG


def test_quotients_of_polynomials_need_no_worker() -> None:
    closed = WorkerPool(1)
    closed.close()
    # 1/(x-1) - 1/(x+1) is 2/(x^2-1); one more in the last place of a coefficient is not
    truth = "\\frac{2}{x^2-1}"
    assert score_math("\\boxed{\\frac{1}{x-1}-\\frac{1}{x+1}}", truth, pool=closed).verdict is Verdict.CORRECT
    assert score_math("\\boxed{\\frac{2}{x^2-1.000000000000000000000001}}", truth, pool=closed).verdict is Verdict.WRONG
