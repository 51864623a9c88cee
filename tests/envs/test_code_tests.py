"""The special cases of CodeTests."""

import base64
import json
import pickle
import re
import zlib
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from tests.envs.sandbox_support import needs_bubblewrap
from trm_envs import InfrastructureError, python_tool
from trm_envs.sandbox import Limits, Result, Status
from trm_envs.scoring import Case, CaseOutcome, CaseVerdict
from trm_envs.tasks.code_rows import row_problem
from trm_envs.tasks.code_tests import ASK, CodeTests
from trm_envs.tasks.generated_functions import LEVELS, PHRASES, draw_functions

pytestmark = needs_bubblewrap
DONE = "\\boxed{done}"
ADD = "a, b = map(int, input().split())\nprint(a + b)"


def make(**options: object) -> CodeTests:
    return gymnasium.make("trm/CodeTests-v0", **options).unwrapped  # type: ignore[return-value]


def run(env: CodeTests, code: str) -> str:
    return env.step(env.call("run_tests", code=code))[0]


def write_rows(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def packed(tests: list[dict]) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


def plain_row(**fields: object) -> dict:
    tests = [{"input": "1 2\n", "output": "3\n"}, {"input": "5 5\n", "output": "10\n"}]
    hidden = [{"input": "-4 9\n", "output": "5\n"}]
    return {"question": "Print the sum.", "tests": tests, "hidden_tests": hidden, "solution": ADD, **fields}


def livecodebench_row(**fields: object) -> dict:
    public = [{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]
    private = [{"input": "7 8\n", "output": "15\n", "testtype": "stdin"}]
    texts = {"question_content": "Print the sum.", "starter_code": "", "public_test_cases": json.dumps(public)}
    return {**texts, "private_test_cases": packed(private), **fields}


def test_an_episode_told_step_by_step() -> None:
    env = make(horizon=2)
    first, _ = env.reset(seed=1)
    one, two = env._problem.stages
    assert first == f"Write {one.text}."
    assert re.fullmatch(r"f1\(x\): x\*\d+[+-]\d+", one.text)
    assert re.fullmatch(r"f2\(x\): f1\(x\)[-+*%](\d+|x)", two.text)
    assert run(env, one.code) == f"Passed. Write {two.text}."
    assert run(env, two.code) == f"Passed. {ASK}"
    assert run(env, "x").endswith(ASK)
    _, reward, _, _, info = env.step(DONE)
    assert (reward, info["numbers"]) == (1.0, {"stages_passed_frac": 1.0, "num_failed_runs": 0.0})


def test_upfront_tells_all_functions_at_once() -> None:
    env = make(horizon=3, reveal="upfront")
    first, _ = env.reset(seed=1)
    assert first.count("Write f") == 3
    assert run(env, env._problem.stages[0].code) == "Passed."


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def f1(x): return 0.5", r"Failed: f1\(\d+\) is -?\d+, got 0\.5\."),
        ("def f1(x): return retrn", r"Failed: NameError: name 'retrn' is not defined\."),
        ("def f1(x: return x", r"Failed: SyntaxError: .+\."),
        ("def g(x): return x", r"Failed: NameError: name 'f1' is not defined\."),
        ("def f1(x): return object()", r"Failed: f1\(\d+\) is -?\d+, got <object object at 0x\.\.\.>\."),
        ("import os; os._exit(0)", r"Failed: f1\(\d+\) is -?\d+, got nothing\."),
        ("import sys; sys.exit(1)", r"Failed: the code failed\."),
        ("while True: pass", r"Failed: the code took too long\."),
        ("print('hello')\ndef f1(x): return x", r"Failed: f1\(\d+\) is -?\d+, got hello\."),
    ],
)
def test_a_failing_run_says_why_and_what_to_write(code: str, message: str) -> None:
    env = make(horizon=2, tool_timeout_s=1.0)
    first, _ = env.reset(seed=2)
    assert re.fullmatch(f"{message} {re.escape(first)}", run(env, code))
    assert env.step(DONE)[4]["numbers"] == {"stages_passed_frac": 0.0, "num_failed_runs": 1.0}


def test_an_early_answer_earns_nothing() -> None:
    env = make(horizon=2)
    env.reset(seed=1)
    env.step(env.solution())
    assert env.step(DONE)[1] == 0.0


def test_a_table_of_the_visible_tests_passes_them_and_earns_nothing() -> None:
    env = make(horizon=1)
    env.reset(seed=1)
    assert run(env, f"def f1(x): return {dict(env._problem.stages[0].visible)}[x]") == f"Passed. {ASK}"
    assert env.step(DONE)[1] == 0.0


def test_a_later_function_that_breaks_an_earlier_one_earns_nothing() -> None:
    env = make(horizon=2)
    env.reset(seed=1)
    env.step(env.solution())
    two = env._problem.stages[1]
    table = f"def f2(x): return {dict(two.visible + two.hidden)}[x]\ndef f1(x): return 0"
    assert run(env, table) == f"Passed. {ASK}"
    assert env.step(DONE)[1] == 0.0


@pytest.mark.parametrize("level", LEVELS)
def test_functions_of_both_levels_are_what_their_texts_say(level: str) -> None:
    names: dict = {}
    for stage in draw_functions(np.random.default_rng(3), 60, level).stages:
        exec(stage.code, names)
        name, _, formula = stage.text.partition("(x): ")
        assert all(names[name](argument) == value for argument, value in stage.visible + stage.hidden)
        assert not {argument for argument, _ in stage.visible} & {argument for argument, _ in stage.hidden}
        if level == "small":
            assert stage.code == f"def {name}(x): return {formula}"
            assert all(abs(value) < 100_000 for _, value in stage.visible + stage.hidden)


def test_long_chains_keep_functions_that_differ() -> None:
    stages = draw_functions(np.random.default_rng(0), 2000, "small").stages
    late = [{value for _, value in stage.visible + stage.hidden} for stage in stages[1000:]]
    # 7 tests a stage; a constant function would have one value
    assert min(map(len, late)) >= 2
    assert sum(map(len, late)) / len(late) > 5


@pytest.mark.parametrize(("words", "expression"), PHRASES)
def test_phrases_hold_where_they_can_be_checked_by_hand(words: str, expression: str) -> None:
    # y = 90, a = 7
    by_hand = {
        "the sum of the decimal digits": 9 * 7,
        "y // 2 if y is even": 45,
        "the number of divisors": 2,  # 97 is prime
        "the decimal digits of y in reverse": 9 + 7,
        "the number of ones": 4 * 7,  # 90 = 0b1011010
        "the sum of the squares": 1 + 4 + 9 + 16 + 25 + 36,  # 90 % 7 = 6
        "the bitwise xor": 93,  # 1011010 ^ 0000111 = 1011101
        "the distance": 1,  # 91
        "the number of primes below": 3,  # 2, 3, 5
        "the largest decimal digit": 9 * 7,
    }
    (expected,) = (value for start, value in by_hand.items() if words.startswith(start))
    assert eval(expression.format(a=7), {"y": 90}) == expected


def test_a_failing_sandbox_is_neither_right_nor_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def run(self, code: str, stdin: str, files: object, limits: Limits) -> Result:
            return Result(Status.SANDBOX_ERROR, message="no fork")

    env = make(horizon=1)
    env.reset(seed=1)
    env.step(env.solution())
    monkeypatch.setattr(python_tool, "shared_sandbox", lambda name, pins: Broken())
    with pytest.raises(InfrastructureError, match="no fork"):
        env.step(DONE)
    env.reset(seed=1)
    with pytest.raises(InfrastructureError, match="no fork"):
        env.step(env.solution())


@pytest.mark.parametrize("row", [plain_row(), livecodebench_row(solution=ADD)])
def test_a_row_is_solved_by_its_solution(tmp_path: Path, row: dict) -> None:
    env = make(horizon=1, split="all", rows=write_rows(tmp_path / "rows.jsonl", row))
    first, _ = env.reset(seed=0)
    assert first == "Print the sum."
    assert "stdin" in env.system_prompt
    assert run(env, "print(3)" if "question_content" not in row else "print(4)").startswith("Failed: test ")
    assert env.step(env.solution())[0] == f"Passed. {ASK}"
    assert env.step(DONE)[1] == 1.0


def test_a_row_tells_of_the_first_failing_test_and_hides_the_others(tmp_path: Path) -> None:
    env = make(horizon=1, split="all", rows=write_rows(tmp_path / "rows.jsonl", plain_row()))
    env.reset(seed=0)
    assert run(env, "print(3)") == "Failed: test 2\nInput:\n5 5\nExpected:\n10\nGot:\n3"
    assert run(env, "1/0").endswith("But ZeroDivisionError: division by zero.")
    assert run(env, "print({'1 2': 3, '5 5': 10}.get(input()))") == f"Passed. {ASK}"
    assert env.step(DONE)[1] == 0.0


def test_a_row_without_solution_has_no_solver(tmp_path: Path) -> None:
    env = make(horizon=1, split="all", rows=write_rows(tmp_path / "rows.jsonl", livecodebench_row()))
    env.reset(seed=0)
    with pytest.raises(NotImplementedError, match="solution"):
        env.solution()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (plain_row(question=" "), r'row 1 .*field "question": expected text'),
        ({"problem": "x"}, r'row 1 .*field "question_content": expected text'),
        (plain_row(tests=[]), r'row 1 .*field "tests": is an empty list'),
        (plain_row(tests=[{"input": 1, "output": "2"}]), r'row 1 .*field "tests", test 0: "input" is int'),
        (plain_row(hidden_tests=None), r'row 1 .*field "hidden_tests": is missing'),
        (plain_row(hidden_tests=[3]), r'row 1 .*field "hidden_tests", test 0: is int'),
        (livecodebench_row(starter_code="class A:"), r'row 1 .*field "starter_code": it asks for a function'),
        (
            livecodebench_row(public_test_cases='[{"input": "", "output": "", "testtype": "functional"}]'),
            r'row 1 .*field "public_test_cases", test 0: "testtype" is \'functional\'',
        ),
        (livecodebench_row(private_test_cases="???"), r'row 1 .*field "private_test_cases": expected JSON, or base64'),
        (livecodebench_row(private_test_cases="AAAA"), r'row 1 .*field "private_test_cases": expected JSON, or base64'),
    ],
)
def test_a_bad_row_is_refused_with_file_row_and_field(tmp_path: Path, row: dict, message: str) -> None:
    path = write_rows(tmp_path / "rows.jsonl", plain_row(), row)
    with pytest.raises(ValueError, match=f"rows.jsonl, {message}"):
        row_problem(path, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reveal": "up_front"}, "did you mean 'upfront'"),
        ({"level": "smal"}, "did you mean 'small'"),
        ({"rows": "x.jsonl"}, "allowed: 1 with rows"),
        ({"row": 3}, "null without rows"),
        ({"tests_timeout_s": 0}, "give seconds"),
        ({"sandbox": "loca"}, "did you mean 'local'"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_a_row_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", plain_row())
    with pytest.raises(ValueError, match="allowed: 0 to 0"):
        make(horizon=1, split="all", rows=path, row=1).reset(seed=0)


def test_all_functions_are_tested_in_one_run_each_time() -> None:
    calls: list[list[Case]] = []

    def count(program: str, cases: list[Case], harness: str) -> list[CaseOutcome]:
        calls.append(list(cases))
        return [CaseOutcome(CaseVerdict.PASSED)]

    problem = draw_functions(np.random.default_rng(0), 50, "small")
    assert problem.visible_failure(count, "", 3) is None
    assert problem.passes_hidden(count, "")
    assert [len(cases) for cases in calls] == [1, 1]
    assert calls[1][0].stdin.count("\n") == 200
