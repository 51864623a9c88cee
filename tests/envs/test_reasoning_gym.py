"""The special cases of the bridge to reasoning-gym."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from trm_envs.errors import VerifierError
from trm_envs.scoring.pool import WorkerPool
from trm_envs.tasks import reasoning_gym as bridge

pytest.importorskip("reasoning_gym")

PATHS = {"PYTHONPATH": os.pathsep.join(sys.path)}
# Sets whose scorers hand the answer to eval, or to sympy's parser, which does.
EVALUATING = (
    "string_insertion", "spiral_matrix", "binary_matrix", "n_queens", "simple_integration", "polynomial_multiplication",
    "countdown",
)  # fmt: skip


def make(**options: Any) -> bridge.ReasoningGym:
    return gymnasium.make("trm/ReasoningGym-v0", **options).unwrapped  # type: ignore[return-value]


def answer_all(env: bridge.ReasoningGym, answers: list[str]) -> tuple[float, dict[str, Any]]:
    for answer in answers:
        _, reward, terminated, _, info = env.step(env.answer(answer))
    assert terminated
    return reward, info


@pytest.mark.slow
def test_questions_come_one_after_the_other_and_all_must_be_right() -> None:
    env = make(horizon=3)
    first, _ = env.reset(seed=0)
    right = [item["answer"] for item in env._items]
    assert first.startswith("Question 1 of 3:\n")
    observation, reward, terminated, _, info = env.step(env.answer("no number"))
    assert observation.startswith("Question 2 of 3:\n")
    assert (reward, terminated, info["role"]) == (0.0, False, "user")
    reward, info = answer_all(env, right[1:])
    # 0.0 for the first by chain_sum's scorer, 1.0 for the two others
    assert (reward, info["success"], info["numbers"]) == (0.0, False, {"mean_score": pytest.approx(2 / 3)})
    env.reset(seed=0)
    reward, info = answer_all(env, right)
    assert (reward, info["success"], info["numbers"]) == (1.0, True, {"mean_score": 1.0})


def test_a_partial_score_is_no_success() -> None:
    env = make(horizon=1)
    env.reset(seed=1)
    right = env._items[0]["answer"]
    # the default scorer gives the share of the text that the right answer takes
    reward, info = answer_all(env, [f"it is {right}"])
    assert 0.0 < info["numbers"]["mean_score"] < 1.0
    assert (reward, info["success"]) == (0.0, False)


def test_python_is_at_hand() -> None:
    env = make(protocol="fenced")
    env.reset(seed=0)
    observation, *_, info = env.step("```python\nprint(6 * 7)\n```")
    env.close()
    assert (observation, info["num_tool_calls"]) == ("42", 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "chain_sun"}, "did you mean chain_sum"),
        ({"dataset": "composite"}, "dataset = 'composite'"),
        ({"dataset": 3}, "expected a name"),
        ({"dataset_options": {"min_term": 3}}, "did you mean min_terms"),
        ({"dataset_options": {"seed": 3}}, "'seed' is not an option of chain_sum"),
        ({"dataset_options": {"min_terms": 30}}, "max_terms must be >= min_terms"),
        ({"dataset_options": [1]}, "expected a mapping"),
        ({"dataset_options": {"a": object()}}, "expected a mapping of JSON"),
    ],
)
def test_a_bad_set_is_refused_with_the_way_out(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)
    env = make()
    with pytest.raises(ValueError, match=message):
        env.reset(seed=0, options=options)


def test_the_options_reach_the_set() -> None:
    env = make(dataset_options={"min_terms": 9, "max_terms": 9, "min_digits": 1, "max_digits": 1})
    question, _ = env.reset(seed=0)
    assert sum(question.count(sign) for sign in (" + ", " - ")) == 8


@pytest.mark.parametrize("dataset", EVALUATING)
def test_an_answer_is_never_run_as_code(dataset: str, tmp_path: Path) -> None:
    env = make(dataset=dataset, horizon=1, split="all")
    mark = tmp_path / "ran"
    for text in (
        f"__import__('pathlib').Path({str(mark)!r}).touch()",
        f"open({str(mark)!r}, 'w')",
        f"[open({str(mark)!r}, 'w') for i in (1,)]",
        "(lambda: ().__class__.__base__.__subclasses__())()",
    ):
        env.reset(seed=3)
        _, reward, *_ = env.step(env.answer(text))
        assert reward == 0.0
        assert not mark.exists()
    env.reset(seed=3)
    assert env.step(env.solution())[1] == 1.0


CHANGES = (
    "[0 for Integer.p in [False]]",
    "[0 for Integer.p, x in [(1, 2)]]",
    "[0 for [Integer.q] in [[1]]]",
    "{0 for Symbol.n in [0]}",
    "(0 for Integer.p in [False])",
    "[0 for x in [[1]] for x[0] in [2]]",
    "(x := 3)",
    "[(Integer := 0) for i in [1]]",
)
"""Answers that change what later ones are scored with."""


@pytest.mark.slow
def test_the_guard_refuses_what_would_run_without_it() -> None:
    program = (
        "import sys; from sympy import parse_expr, Symbol; from trm_envs.tasks import reasoning_gym_worker as worker\n"
        "sys.addaudithook(worker._refuse_code)\n"
        "worker._is_scoring = True\n"
        "assert eval('[1, (2, \"a\")]') == [1, (2, 'a')]\n"
        "assert parse_expr('2*x**2 + sin(x)', local_dict={'x': Symbol('x')})\n"
        f"CHANGES = {CHANGES!r}\n"
        "assert eval('(lambda z: z)(4)') == 4\n"
        "for text in ('open', '().__class__', 'print(1)', '[len for i in ()]', 'lambda: exit()', *CHANGES):\n"
        "    try: eval(text)\n"
        "    except ValueError as error: assert 'the answer is code that ' in str(error), (text, error)\n"
        "    else: raise SystemExit(text)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, env=PATHS
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_an_answer_that_hangs_the_scorer_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "SCORE_DEADLINE_S", 1.5)
    env = make(dataset="simple_integration", horizon=1, split="all")
    env.reset(seed=3)
    reward, info = answer_all(env, ["9**9**9**9"])
    assert (reward, info["success"]) == (0.0, False)


def fake_scorer(monkeypatch: pytest.MonkeyPatch, reply: str) -> None:
    """Let the workers fail at scoring in a given way: `reply` is the statement that answers a request to score."""
    program = (
        "import json, sys, time\nprint('{}', flush=True)\nfor line in sys.stdin:\n    request = json.loads(line)\n"
        "    made = {'question': 'q', 'answer': 'own'}\n    is_own = request.get('answer') == 'own'\n"
        f"    if request['operation'] == 'score': {reply}\n    print(json.dumps(made), flush=True)\n"
    )
    pool = WorkerPool(1, (sys.executable, "-c", program))
    monkeypatch.setattr(bridge, "_pools", {bridge.os.getpid(): pool})


@pytest.mark.parametrize(
    ("reply", "reward"),
    [
        ("made = {'score': 1.0}", 1.0),
        ("made = {'score': 1.0} if is_own else {'error': 'IndexError'}", 0.0),
        ("made = {'score': 1.0} if is_own else sys.exit()", 0.0),
        ("made = {'error': 'IndexError'}", None),
        ("sys.exit()", None),
    ],
)
def test_who_is_at_fault_when_a_scorer_fails(monkeypatch: pytest.MonkeyPatch, reply: str, reward: float | None) -> None:
    fake_scorer(monkeypatch, reply)
    env = make(horizon=1, split="all")
    env.reset(seed=0)
    if reward is None:
        with pytest.raises(VerifierError):
            env.step(env.answer("x"))
    else:
        assert env.step(env.answer("x"))[1] == reward
    bridge.close_workers()


def test_an_answer_of_megabytes_is_wrong_without_asking() -> None:
    env = make(horizon=1)
    env.reset(seed=0)
    assert answer_all(env, ["1" * 500_000])[0] == 0.0


def test_a_set_without_answers_has_no_solver() -> None:
    env = make(dataset="graph_color", horizon=1, split="all")
    env.reset(seed=0)
    with pytest.raises(NotImplementedError, match="no answers of its own"):
        env.solution()


@pytest.mark.slow
def test_this_process_never_imports_the_package() -> None:
    program = (
        "import sys, gymnasium, trm_envs\n"
        "env = gymnasium.make('trm/ReasoningGym-v0'); env.reset(seed=0); env.step('x')\n"
        "assert 'reasoning_gym' not in sys.modules and 'sympy' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, env=PATHS
    )
    assert done.returncode == 0, done.stderr


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge.importlib.util, "find_spec", lambda name: None)
    bridge._check_set.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'trm-agent\[bridges\]'"):
        make()


def test_the_task_is_what_is_asked() -> None:
    env = make(horizon=2)
    env.reset(seed=0)
    name, options, questions = json.loads(env.task_key)
    assert (name, options, len(questions)) == ("chain_sum", {}, 2)


JUNK = ("x", "[[1,2],[3", "\x00", "\ud800", "9" * 5000, "nan", "-1e999", "{}", "(" * 3000, "'" * 50, "x" * 9999)
# of each kind: no answer of its own, scorers that raise on words, on lists, on numbers, that measure a distance
HANDFUL = ("boxnet", "rush_hour", "prime_factorization", "sudoku", "complex_arithmetic")


def junk_is_wrong_and_nothing_else(dataset: str, junk: Sequence[str]) -> None:
    env = make(dataset=dataset, horizon=1, split="all")
    for text in junk:
        env.reset(seed=1)
        _, _, _, truncated, info = env.step(env.answer(text))
        assert (truncated, "scorer_error" in info) == (False, False), (dataset, text[:20])
        assert 0.0 <= info.get("numbers", {}).get("mean_score", 0.0) <= 1.0


@pytest.mark.parametrize("dataset", HANDFUL)
def test_junk_voids_no_episode(dataset: str) -> None:
    junk_is_wrong_and_nothing_else(dataset, JUNK)


@pytest.mark.slow
def test_junk_voids_no_episode_in_any_set() -> None:
    from reasoning_gym.factory import DATASETS

    names = sorted(set(DATASETS) - {"composite"} - set(bridge.ONE_ANSWER_FITS_ALL))
    assert len(names) > 100
    for name in names:
        junk_is_wrong_and_nothing_else(name, ("x", "\ud800", "[[1,2],[3", "nan"))


@pytest.mark.parametrize("text", ["nan", "NaN", "1+nanj", "-inf", "Infinity", "inf-infj", "\\text{nan}"])
def test_what_is_no_number_is_near_to_none(text: str) -> None:
    env = make(dataset="complex_arithmetic", horizon=1, split="all")
    env.reset(seed=1)
    assert answer_all(env, [text])[0] == 0.0


@pytest.mark.parametrize("score", ["float('nan')", "float('inf')", "1.5", "-0.5", "None", "'1'"])
def test_a_score_that_is_none_is_the_texts_fault(monkeypatch: pytest.MonkeyPatch, score: str) -> None:
    fake_scorer(monkeypatch, f"made = {{'score': 1.0 if is_own else {score}}}")
    env = make(horizon=1, split="all")
    env.reset(seed=0)
    assert env.step(env.answer("x"))[1] == 0.0
    bridge.close_workers()


@pytest.mark.parametrize(
    ("reply", "reward"),
    [
        ("made = {'score': 0.0} if request['answer'] == '' else {'error': 'TypeError'}", 0.0),
        ("made = {'score': 0.0} if request['answer'] == '' else sys.exit(1)", 0.0),
        ("made = {'error': 'ImportError'}", None),
    ],
)
def test_without_an_own_answer_an_empty_one_shows_whose_fault_it_was(
    monkeypatch: pytest.MonkeyPatch, reply: str, reward: float | None
) -> None:
    fake_scorer(monkeypatch, f"request.pop('x', 0); made['answer'] = None; {reply}")
    env = make(horizon=1, split="all")
    env.reset(seed=0)
    env._items[0]["answer"] = None
    if reward is None:
        with pytest.raises(VerifierError, match="ImportError"):
            env.step(env.answer("x"))
    else:
        assert env.step(env.answer("x"))[1] == reward
    bridge.close_workers()
