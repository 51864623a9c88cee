"""The special cases of ComposedMath."""

import json
import logging
import re
from pathlib import Path

import gymnasium
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.envs.math_support import FakeSession, fake_sessions, solve_question
from trm_envs.base import split_of
from trm_envs.tasks.chain_problems import ChainProblem, drop_shared_lines, find_integers
from trm_envs.tasks.composed_math import ComposedMath, read_list

__all__ = ["fake_sessions"]
KEY = re.compile(r"(Y_\d+) is the answer of problem (\d+)(?: (plus|minus) (\d+))?\. (.*)", re.DOTALL)


def make(**options: object) -> ComposedMath:
    return gymnasium.make("trm/ComposedMath-v0", **options).unwrapped  # type: ignore[return-value]


def write(folder: Path, *rows: tuple[str, object]) -> str:
    lines = [json.dumps({"question": question, "answer": answer}) + "\n" for question, answer in rows]
    (folder / "rows.jsonl").write_text("".join(lines))
    return str(folder / "rows.jsonl")


def open_problems(message: str, answers: list[int]) -> list[str]:
    """Return the problems of a message with each hidden integer put back, worked out from the answers before."""
    opened = []
    for number, block in enumerate(message.split("\n\n"), 1):
        text = block.removeprefix(f"Problem {number}. ")
        assert text != block
        if number > 1:
            name, before, sign, difference, text = KEY.fullmatch(text).groups()
            assert int(before) == number - 1
            value = answers[number - 2] + int(difference or 0) * (-1 if sign == "minus" else 1)
            assert text.count(name) == 1
            text = text.replace(name, str(value))
        opened.append(text)
    return opened


def test_the_words_alone_lead_from_answer_to_answer() -> None:
    env = make(horizon=40)
    message, _ = env.reset(seed=3)
    answers: list[int] = []
    for number in range(40):
        answers.append(int(solve_question(open_problems(message, answers + [0] * 40)[number])[1]))
    assert env.step(f"\\boxed{{{', '.join(map(str, answers))}}}")[1] == 1.0


def test_the_solver_computes_each_problem_and_wins(fake_sessions: list[FakeSession]) -> None:
    env = make(horizon=10)
    env.reset(seed=1)
    printed = [env.step(env.solution())[0] for _ in range(10)]
    assert env.solution() == env.answer(", ".join(printed))
    _, reward, _, _, info = env.step(env.solution())
    assert (reward, info["numbers"]) == (1.0, {"right_frac": 1.0, "right_before_error_frac": 1.0})


ANSWERS = [
    # of 1, -2, 30
    ("1, -2, 30", 1.0, 3, 3),
    ("1,-2,30", 1.0, 3, 3),
    ("1 -2 30", 1.0, 3, 3),
    ("$1$, $-2$, $30$", 1.0, 3, 3),
    ("(1,\\ -2,\\;+30)", 1.0, 3, 3),
    ("[1, -2, 030]", 1.0, 3, 3),
    ("1, 2, 30", 0.0, 2, 1),
    ("x, -2, 30", 0.0, 2, 0),
    # the right ones and one more: a list of another length is wrong, what it holds is counted
    ("1, -2, 30, 5", 0.0, 3, 3),
    ("1, -2", 0.0, 2, 2),
    ("30", 0.0, 0, 0),
    ("-2, 1, 30", 0.0, 1, 0),
    ("1; -2; 30", 0.0, 1, 0),
    ("1, -2, 30.0", 0.0, 2, 2),
    (",,", 0.0, 0, 0),
]


@pytest.mark.parametrize(("text", "reward", "num_right", "num_first"), ANSWERS)
def test_all_answers_count_in_order(text: str, reward: float, num_right: int, num_first: int) -> None:
    env = make(horizon=3)
    env.reset(seed=1)
    env._problems = [ChainProblem("1", answer, 0) for answer in (1, -2, 30)]
    _, given_reward, terminated, _, info = env.step(f"\\boxed{{{text}}}")
    assert (given_reward, terminated, info["success"]) == (reward, True, reward == 1.0)
    assert info["numbers"] == {"right_frac": num_right / 3, "right_before_error_frac": num_first / 3}


@given(st.lists(st.integers(-(10**20), 10**20), min_size=1, max_size=20), st.sampled_from([",", ", ", " , ", " "]))
def test_any_list_of_integers_is_read_back(values: list[int], separator: str) -> None:
    assert read_list(separator.join(map(str, values))) == values


@given(st.text())
def test_no_text_breaks_the_reading_of_lists(text: str) -> None:
    assert all(value is None or isinstance(value, int) for value in read_list(text))


@pytest.mark.timeout(10)
@pytest.mark.parametrize("text", [" " * 100_000 + "x", "\\ " * 100_000, "1" * 300_000, "," * 100_000, "~ " * 100_000])
def test_a_long_text_is_read_in_linear_time(text: str) -> None:
    assert all(value is None for value in read_list(text))


HIDDEN = [
    ("A box holds 12 red and 5 blue balls.", ["12", "5"]),
    ("Let $x = 7$ and (3 or 4), 8.", ["7", "3", "4", "8"]),
    ("What is 20% of 50?", ["20", "50"]),
    # parts of other things
    ("$x^2 + y_1 + 3z + \\frac12 + \\frac{3}{4}$", []),
    ("1,000 apples, 3.14, -5, 2/3, 007, 5!", []),
    ("A 5-digit number, $2\\pi$, B12, 1234567890123", []),
    # a LaTeX command would take only the first letter of the name
    ("$\\sqrt 5$ and $x^ 3$ and $2 \\cdot 6$", ["2"]),
    ("[asy] draw(1, 2); [/asy] What is 3 + 4?", []),
    ("no integer", []),
]


@pytest.mark.parametrize(("question", "found"), HIDDEN)
def test_integers_are_hidden_only_where_they_stand_alone(question: str, found: list[str]) -> None:
    problems = [ChainProblem(question, 0, start) for start in find_integers(question)]
    assert [str(problem.key) for problem in problems] == found
    for problem, digits in zip(problems, found, strict=True):
        assert problem.with_name(digits) == question
        assert problem.with_name("Y_2").count("Y_2") == 1


def test_rows_of_a_file_are_chained_and_those_that_cannot_be_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = [(f"Tom has {n} apples and eats 2. How many are left?", n - 2) for n in range(10, 40)]
    path = write(tmp_path, *good, ("Half of 1?", "1/2"), ("Factor 4x.", "2x"), ("What is two plus two?", 4), good[0])
    caplog.set_level(logging.INFO, "trm_envs")
    env = make(rows=path, horizon=8, split="all")
    for seed in range(20):
        message, _ = env.reset(seed=seed)
        answers = [problem.answer for problem in env._problems]
        opened = open_problems(message, answers)
        assert len(set(opened)) == 8
        for text, answer in zip(opened, answers, strict=True):
            assert (text, answer) in good
        assert env.step(env.solution())[1] == 1.0
    # 30 good ones and 3 others; the repeated one counts once
    assert "3 of its 33 problems are left out: 2 have no integer answer of at most 1000000000, 1 no" in caplog.text


def test_too_few_rows_are_refused_with_what_was_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, ("What is 1 + 1?", 2), ("What is 1 + 2?", 3), ("Half of 1?", "1/2"))
    make(rows=path, horizon=2, split="all").reset(seed=0)
    message = (
        '2 problems of split "all" can be chained, and horizon = 3 needs as many; 1 of its 3 problems are left out'
    )
    with pytest.raises(ValueError, match=message):
        make(rows=path, horizon=3, split="all").reset(seed=0)


def test_no_problem_is_in_tasks_of_both_splits(tmp_path: Path) -> None:
    path = write(tmp_path, *((f"What is {n} + 1?", n + 1) for n in range(100)))
    for rows in (path, ""):
        asked: dict[str, set[str]] = {}
        for split in ("train", "held_out"):
            env = make(rows=rows, horizon=5, split=split)
            asked[split] = set()
            for seed in range(100):
                env.reset(seed=seed)
                asked[split] |= {problem.question for problem in env._problems}
            assert {split_of(question) for question in asked[split]} == {split}
        assert not asked["train"] & asked["held_out"]
    # 20 +- 4 of 100 rows are held out, and 500 draws miss none of them
    ids = {make(rows=path, horizon=1, split="held_out").reset(seed=seed)[1]["task_id"] for seed in range(300)}
    assert 5 < len(ids) < 35


def test_lines_that_all_questions_share_are_dropped() -> None:
    questions = [f"Solve it.\n\nWhat is {n} + 1?\nNow think.\n\nEnd with Answer: $Answer." for n in (1, 2, 3)]
    assert drop_shared_lines(questions) == [f"What is {n} + 1?" for n in (1, 2, 3)]
    assert drop_shared_lines(["Solve it.\nA"]) == ["Solve it.\nA"]
    assert drop_shared_lines(["A\nB", "A\nB\nC"]) == ["A\nB", "A\nB\nC"]
    assert drop_shared_lines(["A\nX", "A\nX\nX"]) == ["A", "A\nX"]
    assert drop_shared_lines(["A\n\nB", "A\nC\nB"]) == ["A\n\nB", "A\nC\nB"]


@given(st.lists(st.text("ab\n", min_size=1).filter(str.strip), min_size=1, max_size=5))
def test_dropping_shared_lines_keeps_questions_apart_and_not_empty(questions: list[str]) -> None:
    kept = drop_shared_lines(questions)
    assert all(text in question for text, question in zip(kept, questions, strict=True))
    assert all(kept)
    assert len(set(kept)) == len({question.strip() for question in questions})


def test_a_name_that_a_question_uses_is_not_taken(tmp_path: Path) -> None:
    path = write(tmp_path, ("Y_2 is 5. What is Y_2 + 1?", 6), ("Y_2 is 7. What is Y_2 + 1?", 8))
    message, _ = make(rows=path, horizon=2, split="all").reset(seed=0)
    assert "YY_2 is the answer of problem 1" in message


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="rows: got 5; allowed: the name of a file"):
        make(rows=5)
    with pytest.raises(ValueError, match="did you mean 'rows'"):
        make(row="x")
