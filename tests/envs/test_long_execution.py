"""The special cases of LongExecution."""

import re

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trm_envs.tasks.long_execution import WORDS, LongExecution, draw_values, num_right_steps


def make(**options: object) -> LongExecution:
    return gymnasium.make("trm/LongExecution-v0", **options).unwrapped  # type: ignore[return-value]


def play(env: LongExecution, answers: list[str]) -> tuple[float, dict]:
    """Give the answers in turn; return the reward and the last info."""
    for answer in answers:
        _, reward, terminated, _, info = env.step(f"\\boxed{{{answer}}}")
    assert terminated
    return reward, info


def with_turns(turns: list[list[str]], **options: object) -> LongExecution:
    """An episode over a = 5, b = -3, c = 10 with chosen turns."""
    env = make(horizon=len(turns), **options)
    env.reset(seed=0)
    env._values, env._turns = {"a": 5, "b": -3, "c": 10}, turns
    env._sums = np.cumsum([sum(env._values[word] for word in words) for words in turns]).tolist()
    return env


def test_there_are_many_different_words_of_five_letters() -> None:
    assert len(set(WORDS)) == len(WORDS) >= 100
    assert all(re.fullmatch("[a-z]{5}", word) for word in WORDS)


def test_values_are_never_zero_and_reach_both_ends() -> None:
    values = [value for seed in range(200) for value in draw_values(np.random.default_rng(seed), 100).values()]
    assert min(values) == -99
    assert max(values) == 99
    assert 0 not in values


def test_the_sums_follow_from_what_is_said_alone() -> None:
    env = make(horizon=200, keys_per_turn=3, num_words=20)
    message, _ = env.reset(seed=4)
    told, start = message.split("\n")
    values = {word: int(value) for word, value in re.findall(r"([a-z]{5}) (-?\d+)", told)}
    assert len(values) == 20
    assert start.startswith("The sum starts at 0. Add ")
    total, said = 0, start.removeprefix("The sum starts at 0. ")
    for turn in range(200):
        words = re.fullmatch(r"Add (\w{5}), (\w{5}), (\w{5})\.", said).groups()
        assert len(set(words)) == 3
        total += sum(values[word] for word in words)
        said, reward, terminated, _, _ = env.step(f"\\boxed{{{total}}}")
        assert (reward, terminated) == ((1.0, True) if turn == 199 else (0.0, False))


def test_the_next_turn_is_the_same_whatever_was_answered() -> None:
    one, two = make(horizon=30), make(horizon=30)
    assert one.reset(seed=5) == two.reset(seed=5)
    for _ in range(29):
        assert one.step(one.solution()) == two.step("\\boxed{x}")
    assert one.step(one.solution())[1] == 1.0
    assert two.step(two.solution())[1] == 0.0


# The true sums are 5, 2, 12, 17.
TURNS = [["a"], ["b"], ["c"], ["a"]]
NUMBERS = [
    # all right
    (["5", "2", "12", "17"], (4, 4, 4)),
    # a slip of +1 at turn 2, carried on: one wrong step, three wrong sums
    (["5", "3", "13", "18"], (1, 3, 1)),
    # a slip made good: turn 2 is wrong as a sum and as a step, so is the step of turn 3 back to the right sum
    (["5", "3", "12", "17"], (3, 2, 1)),
    # unreadable at turn 2: wrong there; turn 3 goes on from the 5 of turn 1 by -3 + 10, right as a sum and as a step
    (["5", "two", "12", "17"], (3, 3, 1)),
    # unreadable at first, then a sum that is off by one, carried on
    (["?", "3", "13", "18"], (0, 2, 0)),
    # off by one from the start, unreadable at turn 2, then carried on from the 6 of turn 1: 6 - 3 + 10
    (["6", "?", "13", "18"], (0, 2, 0)),
    (["?", "?", "?", "?"], (0, 0, 0)),
    # the right sum only at the end
    (["0", "0", "0", "17"], (1, 0, 0)),
]


@pytest.mark.parametrize(("answers", "expected"), NUMBERS)
def test_the_numbers_tell_slips_from_what_follows_from_them(answers: list[str], expected: tuple) -> None:
    num_right, num_steps, num_first = expected
    reward, info = play(with_turns(TURNS), answers)
    assert info["numbers"] == {
        "turn_accuracy": num_right / 4,
        "step_accuracy": num_steps / 4,
        "task_accuracy": float(num_right == 4),
        "turns_before_error": num_first,
        "turns_before_error_frac": num_first / 4,
    }
    assert reward == float(num_right == 4)
    last_reward, last_info = play(with_turns(TURNS, score_by="last"), answers)
    assert last_reward == float(answers[-1] == "17")
    assert last_info["numbers"] == info["numbers"]


@given(st.lists(st.tuples(st.none() | st.integers(-3, 3), st.integers(-1, 1)), max_size=20))
def test_right_steps_agree_with_a_recount_from_the_words(turns: list[tuple]) -> None:
    # Independently: keep what the model should say next, from its last readable sum and all values since.
    count = expected = total = 0
    sums = []
    for given_sum, added in turns:
        total += added
        sums.append(total)
        expected += added
        if given_sum is not None:
            count += given_sum == expected
            expected = given_sum
    assert num_right_steps([given_sum for given_sum, _ in turns], sums) == count


@pytest.mark.parametrize(("text", "reward"), [("5", 1.0), ("+5", 1.0), (" $5$ ", 1.0), ("5.5", 0.0), ("-5", 0.0)])
def test_sums_are_read_as_integers(text: str, reward: float) -> None:
    assert play(with_turns([["a"]]), [text])[0] == reward


def test_a_turn_without_an_answer_asks_for_it_and_counts_for_nothing() -> None:
    env = with_turns(TURNS)
    for text in ("hello", "\\boxed{}", "<tool_call>{}</tool_call>"):
        assert env.step(text)[1:4] == (0.0, False, False)
    assert env.step("hello")[0] == "Give the final answer as \\boxed{...}."
    assert play(env, ["5", "2", "12", "17"])[0] == 1.0


def test_tasks_that_differ_only_in_later_turns_are_different() -> None:
    shown = [make(horizon=horizon, num_words=1, split="all").reset(seed=1) for horizon in (1, 2, 3)]
    assert len({message for message, _ in shown}) == 1
    assert len({info["task_id"] for _, info in shown}) == 3


def test_a_thousand_turns_work() -> None:
    env = make(horizon=1000, keys_per_turn=2, split="held_out")
    env.reset(seed=1)
    rewards = [env.step(env.solution())[1] for _ in range(1000)]
    assert rewards == [0.0] * 999 + [1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_words": 0}, "num_words: got 0; allowed: a whole number from 1 to"),
        ({"num_words": 10_000}, f"from 1 to {len(WORDS)}"),
        ({"num_words": 3, "keys_per_turn": 4}, "keys_per_turn: got 4; allowed: a whole number from 1 to 3"),
        ({"score_by": "final"}, "score_by: got 'final'; allowed: `all`, `last`"),
        ({"protocol": "fenced"}, "the tools are: none"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)
