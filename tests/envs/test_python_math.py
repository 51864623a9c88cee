"""The special cases of PythonMath and its generated problems."""

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import trm_envs
from tests.envs.math_support import READINGS, FakeSession, fake_sessions, solve_question
from tests.envs.sandbox_support import needs_bubblewrap
from trm_envs.scoring import Outcome, Verdict
from trm_envs.tasks.math_problems import LEAST, MOST, draw_story
from trm_envs.tasks.python_math import PythonMath

__all__ = ["fake_sessions"]
DAPO_TEXT = "Solve the problem. Put the answer in \\boxed{}.\n\nWhat is 6*7?"
ROWS = [
    {"prompt": [{"role": "user", "content": DAPO_TEXT}], "reward_model": {"ground_truth": "42"}},
    {"problem": "Factor x^2 - 1.", "answer": "(x-1)(x+1)"},
    {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1/4?"}], "answer": 0.25},
]


def make(**options: object) -> PythonMath:
    return gymnasium.make("trm/PythonMath-v0", **options).unwrapped  # type: ignore[return-value]


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(tmp_path / "rows.jsonl")


def test_the_words_alone_lead_to_the_answer_for_every_kind_of_step() -> None:
    rng = np.random.default_rng(0)
    seen: set[int] = set()
    for _ in range(300):
        story = draw_story(rng, 1)
        numbers, value = solve_question(story.question)
        assert story.answer == str(value), story.question
        seen.update(numbers)
    assert seen == set(range(len(READINGS)))
    story = draw_story(rng, 100)
    assert story.answer == str(solve_question(story.question)[1])


def test_the_code_of_each_step_prints_its_value() -> None:
    rng = np.random.default_rng(1)
    for horizon in [1] * 200 + [30] * 5:
        story, session = draw_story(rng, horizon), FakeSession()
        for number, step in enumerate(story.steps):
            assert session.run(story.code(number)).stdout == f"{step.value}\n"


def test_values_stay_bounded_and_late_steps_look_like_early_ones() -> None:
    story = draw_story(np.random.default_rng(2), 4000)
    values = [step.value for step in story.steps]
    assert all(isinstance(value, int) and LEAST <= value <= MOST for value in values[:-1])
    early, late = np.array(values[:2000]), np.array(values[2000:-1])
    assert 0.8 < np.median(early) / np.median(late) < 1.25
    assert len(set(late.tolist())) > 500


def test_about_one_story_in_four_ends_with_a_fraction_and_none_if_not_wanted() -> None:
    rng = np.random.default_rng(3)
    # Of 1000 stories 250 +- 14 end with a step that may give a fraction; few of those are whole.
    num = sum("/" in draw_story(rng, 2).answer for _ in range(1000))
    assert 150 < num < 300
    assert not any("/" in draw_story(rng, 2, fractions=False).answer for _ in range(300))


def test_the_solver_calls_once_a_step_and_ends_with_what_was_printed(fake_sessions: list[FakeSession]) -> None:
    env = make(horizon=25)
    env.reset(seed=1)
    for _ in range(25):
        printed, reward, terminated, _, info = env.step(env.solution())
        assert (reward, terminated, info["num_tool_calls"]) == (0.0, False, 1)
    assert env.solution() == env.answer(printed)
    assert env.step(env.solution())[1] == 1.0
    assert len(fake_sessions) == 1
    env.close()
    assert fake_sessions[0].is_closed


def test_a_new_episode_starts_without_the_variables_of_the_last(fake_sessions: list[FakeSession]) -> None:
    env = make(horizon=1)
    env.reset(seed=1)
    env.step(env.solution())
    env.reset(seed=2)
    env.step(env.solution())
    assert [session.is_closed for session in fake_sessions] == [True, False]


@needs_bubblewrap
def test_the_solver_wins_in_the_local_sandbox() -> None:
    env = make(horizon=5, protocol="fenced")
    env.reset(seed=1)
    rewards = [env.step(env.solution())[1] for _ in range(6)]
    env.close()
    assert rewards == [0.0] * 5 + [1.0]


# 6/8 = 0.75 = 75/100
@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("3/4", 1.0),
        ("\\frac{6}{8}", 1.0),
        ("$0.75$", 1.0),
        ("3/5", 0.0),
        ("x", 0.0),
        ("9^{9^{9^9}}", 0.0),
        ("3, 4", 0.0),
    ],
)
def test_a_generated_answer_is_compared_exactly_and_never_undecided(text: str, reward: float) -> None:
    env = make(horizon=1)
    env.reset(seed=1)
    env._truth = "3/4"
    assert env.step(f"So \\boxed{{{text}}}")[1:4] == (reward, True, False)


def test_a_row_is_asked_in_the_words_of_its_file(path: str) -> None:
    env = make(rows=path, horizon=1, row=0, split="all")
    question, info = env.reset(seed=0)
    assert question == DAPO_TEXT
    assert info["horizon"] == 1
    assert "\\boxed{...}" in env.system_prompt
    assert env.step("\\boxed{42}")[1] == 1.0
    env.reset(seed=0)
    assert env.step("<answer>42</answer> or \\boxed{41}")[1] == 0.0
    env.reset(options={"row": 2})
    assert env.system_prompt.startswith("Be brief.\nSolve the problem.")
    assert env.step("\\boxed{\\frac14}")[1] == 1.0
    env.reset(options={"row": 1})
    assert not env.system_prompt.startswith("Be brief.")


def test_each_row_can_be_asked_once_and_its_solver_wins(path: str) -> None:
    env = make(rows=path, horizon=1, split="all")
    ids = set()
    for number in range(len(ROWS)):
        ids.add(env.reset(seed=0, options={"row": number})[1]["task_id"])
        assert env.step(env.solution())[1:4] == (1.0, True, False)
    assert len(ids) == len(ROWS)


def test_a_row_out_of_range_is_refused_with_the_range(path: str) -> None:
    with pytest.raises(ValueError, match=r"row: got 3; allowed: 0 to 2, the rows of .*rows\.jsonl"):
        make(rows=path, horizon=1, row=3, split="all").reset(seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 3}, "rows: got 3; allowed: the name of a file"),
        ({"rows": "a.jsonl"}, "horizon: got 4; .* one problem; pass horizon=1"),
        ({"row": 0}, "row: got 0; allowed: null without rows"),
        ({"rows": "a.jsonl", "horizon": 1, "row": 0}, 'pass split="all"'),
        ({"sandbox": "locale"}, "did you mean 'local'"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_a_bad_file_is_refused_at_reset_with_its_row(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"question": "Q", "answer": 1}\n{"question": "Q"}\n')
    with pytest.raises(ValueError, match=r"bad\.jsonl, row 1 .*reward_model"):
        make(rows=str(tmp_path / "bad.jsonl"), horizon=1).reset(seed=0)


def test_the_rows_of_the_splits_are_apart_and_make_up_the_file(tmp_path: Path) -> None:
    lines = [json.dumps({"question": f"What is {n}+1?", "answer": n + 1}) + "\n" for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    asked = {}
    for split in ("train", "held_out"):
        env = make(rows=str(tmp_path / "rows.jsonl"), horizon=1, split=split)
        asked[split] = {env.reset(seed=seed)[0] for seed in range(600)}
    # 12 +- 3 of 60 are held out; a row of 48 is missed in 600 draws with a chance of 3e-6
    assert not asked["train"] & asked["held_out"]
    assert len(asked["train"] | asked["held_out"]) == 60
    assert 3 <= len(asked["held_out"]) <= 21


def test_what_the_verifier_cannot_decide_is_no_verdict(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make(rows=path, horizon=1, row=1, split="all")
    undecided = Outcome(0.0, Verdict.VERIFIER_ERROR, "no answer in 5.0 s")
    monkeypatch.setattr("trm_envs.tasks.python_math.score_math", lambda *args, **kwargs: undecided)
    env.reset(seed=0)
    with pytest.raises(trm_envs.VerifierError, match=r"truth '.x-1..x.1.'.*no answer in 5.0 s"):
        env.step("\\boxed{x^2-1}")
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step("\\boxed{x^2-1}")
