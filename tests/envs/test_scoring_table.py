"""The table of docs/scoring.md and the evidence of reports: one row, one verdict."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import gymnasium
import pytest

import trm_envs  # noqa: F401
from trm_envs.scoring import Verdict, WorkerPool, check_truths, extract_answer, plain_answer, score_math
from trm_envs.scoring.extract import last_boxed

DOCS = Path(__file__).parents[2] / "docs" / "scoring.md"
ROW = re.compile(r"\| ([a-z ]+) \| `(.+)` \| `(.+)` \| (correct|wrong) \|")
ROWS = [
    tuple(cell.replace("\\|", "|") for cell in match.groups())
    for match in map(ROW.fullmatch, DOCS.read_text().splitlines())
    if match is not None
]
KINDS = ("integer", "fraction", "decimal", "arithmetic", "radical", "multiple of pi or e", "function", "complex",
         "infinity", "expression", "unit", "base", "list", "set", "tuple", "interval", "equation", "words", "matrix",
         "end of the box")  # fmt: skip


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    pytest.importorskip("math_verify", reason="pip install 'trm-agent[math]'")
    pool = WorkerPool(1)
    yield pool
    pool.close()


def test_every_kind_of_truth_has_right_and_wrong_spellings() -> None:
    assert len(ROWS) > 200
    for kind in KINDS:
        assert {verdict for row_kind, _, _, verdict in ROWS if row_kind == kind} >= {"correct"}, kind
    assert {kind for kind, *_ in ROWS} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_documents_table_is_what_the_scorer_does(pool: WorkerPool, kind: str) -> None:
    for row_kind, truth, spelling, verdict in ROWS:
        if row_kind == kind:
            outcome = score_math(f"\\boxed{{{spelling}}}", truth, pool=pool)
            assert outcome.verdict.value == verdict, (truth, spelling, outcome)


# (truth, text of the model, is it right): the reported inputs that are no row of the table, and their siblings.
REPORTED = [
    ("3, 5", "$x=\\boxed{3}$ or $x=\\boxed{5}$", True),
    ("3, 5", "$x_1 = \\boxed{5}$, $x_2 = \\boxed{3}$.", True),
    ("3, 5", "\\boxed{3} and \\boxed{5}", True),
    ("3, 5", "\\boxed{3} \\text{ or } \\boxed{5}", True),
    ("3, 5", "\\boxed{3} \\text{ or } \\boxed{6}", False),
    ("5", "\\boxed{3} or \\boxed{5}", False),
    ("5", "$x=\\boxed{5}$, $x=\\boxed{3}$", False),
    ("5", "I think \\boxed{3}. No, it is \\boxed{5}.", True),
    ("5", "\\boxed{5} is the answer, so \\boxed{5}", True),
    ("5", "\\boxed{5}, \\boxed{5}", True),
    ("73", "\\boxed{73\\ }", True),
    ("73", "\\boxed{73\\,.}", True),
    ("73", "\\boxed{73 \\\\}", True),
    ("73", "\\boxed{$73.$}", True),
    ("(1,4)", "\\boxed{(1,4).}", True),
    ("\\text{two}", "\\boxed{\\text{two}.}", True),
    ("2\\sqrt{3}", "\\boxed{2\\sqrt{3}\\ .}", True),
    ("\\frac{1}{2^{100}}", "\\boxed{1-2^{-100}}", False),
    ("1", "\\boxed{1-2^{-100}}", False),
    ("1-10^{-40}", "\\boxed{1}", False),
    ("\\pi", "\\boxed{\\pi+10^{-60}}", False),
    ("\\pi+10^{-60}", "\\boxed{\\pi+10^{-61}}", False),
    ("\\sqrt{2}+10^{-200}", "\\boxed{10^{-200}+\\sqrt{2}}", True),
    ("\\sqrt{2}+10^{-200}", "\\boxed{\\sqrt{2}+10^{-201}}", False),
    ("10^{40}+1", "\\boxed{10^{40}+2}", False),
]


@pytest.mark.parametrize(("truth", "text", "is_right"), REPORTED)
def test_reported_inputs_and_their_siblings(pool: WorkerPool, truth: str, text: str, is_right: bool) -> None:
    outcome = score_math(text, truth, pool=pool)
    assert outcome.verdict is (Verdict.CORRECT if is_right else Verdict.WRONG), outcome.detail


def test_truths_that_were_unscorable_are_scored_or_refused_with_the_reason() -> None:
    pytest.importorskip("math_verify")
    good = ["4-\\mathrm{i}", "\\frac \\pi4 + 2 - \\sqrt2", "\\{x|-2\\leq x<1\\}", "\\lg 2", "5", "\\text{two}", "$x>3$"]
    assert check_truths(good) == [""] * len(good)
    bad = [
        "The answer is 42.",
        "some working ... #### 5 (in one line)",
        "\\text{5 or 6}",
        "\\frac{1}{0}",
        "1+",
        "\\foo 3",
    ]
    bad += ["", "\\begin{cases}1\\\\2\\end{cases}", "9^{9^{9^9}}", "x" * 3000, "\\frac{1", "\\sum_{k=1}^{n}"]
    assert all(check_truths(bad)), dict(zip(bad, check_truths(bad), strict=True))


def test_two_boxes_in_a_solution_are_both_the_truth() -> None:
    assert extract_answer("so \\boxed{2} and \\boxed{-2}").answer == "2, -2"
    assert score_math("\\boxed{\\pm 2}", "so \\boxed{2} and \\boxed{-2}").verdict is Verdict.CORRECT


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("\\text{son}", "son"),
        ("\\mathrm{son}.", "son"),
        ("$\\text{son}$", "son"),
        ("377.", "377"),
        ("377\\ ", "377"),
        ("$377$", "377"),
        ("[1, 2]", "[1, 2]"),
        ("\\text{a} and \\text{b}", "\\text{a} and \\text{b}"),
        ("wait...", "wait..."),
    ],
)
def test_an_answer_without_its_maths_mode(text: str, plain: str) -> None:
    assert plain_answer(text) == plain


MATHS_MODE = ["{}.", "{}\\ ", "${}$", "\\text{{{}}}", "\\mathrm{{{}}}."]


@pytest.mark.parametrize("form", MATHS_MODE)
@pytest.mark.parametrize("name", ["trm/ChainMath-v0", "trm/LongExecution-v0", "trm/PythonMath-v0"])
def test_generated_answers_count_in_maths_mode(name: str, form: str) -> None:
    env = cast(Any, gymnasium.make(name, horizon=1, **({"split": "all"} if "Chain" not in name else {}))).unwrapped
    env.reset(seed=3)
    for _ in range(8):
        turn = env.solution()
        answer = last_boxed(turn)
        _, reward, terminated, *_ = env.step(f"\\boxed{{{form.format(answer)}}}" if answer else turn)
        if terminated:
            assert reward == 1.0
            return
    raise AssertionError("the episode did not end")


@pytest.mark.slow
@pytest.mark.parametrize("form", MATHS_MODE)
def test_reasoning_gyms_answers_count_in_maths_mode(form: str) -> None:
    pytest.importorskip("reasoning_gym")
    env = cast(Any, gymnasium.make("trm/ReasoningGym-v0", dataset="family_relationships", horizon=1)).unwrapped
    env.reset(seed=3)
    answer = last_boxed(env.solution())
    assert answer is not None
    assert env.step(f"\\boxed{{{form.format(answer)}}}")[1] == 1.0
    env.reset(seed=3)
    assert env.step(f"\\boxed{{{form.format('nobody')}}}")[1] == 0.0


@pytest.mark.parametrize(
    ("answer", "tolerance", "is_right"),
    [("3.15", 0.01, True), ("3.16", 0.01, False), ("3.14", 0.0, True), ("3.15", None, False), ("\\pi", 0.01, True)],
)
def test_a_tolerance_is_absolute(pool: WorkerPool, answer: str, tolerance: float | None, is_right: bool) -> None:
    outcome = score_math(f"\\boxed{{{answer}}}", "3.14", pool=pool, tolerance=tolerance)
    assert (outcome.verdict is Verdict.CORRECT) is is_right


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_a_bad_tolerance_is_refused(tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance is"):
        score_math("\\boxed{5}", "5", tolerance=tolerance)
