"""The special cases of ChainMath."""

import re

import gymnasium
import numpy as np
import pytest

import trm_envs
from trm_envs.tasks.chain_math import ANSWER, FORM, OPERAND, OPERATION, VALUE, Chain, ChainMath, draw_chain


def call(expression: str) -> str:
    return trm_envs.PROTOCOLS["hermes"].format_call("calculator", {"expression": expression}, ())


def make(**options: object) -> ChainMath:
    return gymnasium.make("trm/ChainMath-v0", **options).unwrapped  # type: ignore[return-value]


def test_values_follow_from_the_steps_and_stay_bounded() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        chain = draw_chain(rng, 300)
        value = chain.values[0]
        for (operation, operand), after in zip(chain.steps, chain.values[1:], strict=True):
            value = value + operand if operation == "+" else value - operand if operation == "-" else value * operand
            assert value == after
            assert abs(value) < 1000
            assert 2 <= operand <= 99


def test_late_steps_look_like_early_ones() -> None:
    chain = draw_chain(np.random.default_rng(1), 5000)
    late = [operation for operation, _ in chain.steps[2500:]]
    assert late.count("*") / len(late) > 0.05
    assert late.count("+") / len(late) > 0.25


def test_an_episode_told_step_by_step() -> None:
    env = make(horizon=2)
    first, _ = env.reset(seed=1)
    env._chain = Chain((7, 12, 36), (("+", 5), ("*", 3)))
    assert re.fullmatch(r"Start with \d+\. Now (add|subtract|multiply by) \d+\.", first)
    assert env.step(call("7+5"))[0] == "Result: 12. Now multiply by 3."
    assert env.step(call("12*3"))[0] == "Result: 36. Now give the final answer."
    assert env.step("\\boxed{36}")[1] == 1.0


def test_upfront_tells_every_step_at_once_and_takes_the_answer_at_any_time() -> None:
    env = make(horizon=3, reveal="upfront")
    first, _ = env.reset(seed=1)
    assert first.count("Now ") == 3
    chain = env._chain
    assert env.step(env.solution())[0] == f"Result: {chain.values[1]}."
    assert env.step(f"\\boxed{{{chain.values[-1]}}}")[1] == 1.0


def test_an_early_answer_earns_nothing_even_if_its_value_is_right() -> None:
    env = make(horizon=2)
    env.reset(seed=1)
    env.step(env.solution())
    _, reward, terminated, _, info = env.step(f"\\boxed{{{env._chain.values[-1]}}}")
    assert (reward, terminated, info["success"]) == (0.0, True, False)


def test_a_wrong_call_gets_its_own_result_and_the_next_instruction() -> None:
    env = make(horizon=1)
    env.reset(seed=1)
    assert env.step(call("1000+1"))[0] == "Result: 1001. Now give the final answer."
    assert env.step("\\boxed{1001}")[1] == 0.0


def test_a_failing_call_leaves_the_chain_where_it_is() -> None:
    env = make(horizon=2)
    env.reset(seed=1)
    before = env.solution()
    observation, _, _, _, info = env.step(call("1/0"))
    assert observation.startswith("Error: division by zero. Now ")
    assert info == {"role": "tool", "num_tool_calls": 1, "malformed": False}
    assert env.solution() == before


def test_several_calls_in_a_turn_are_all_run_and_count_as_one_step() -> None:
    env = make(horizon=2)
    env.reset(seed=1)
    observation, _, _, _, info = env.step(call("1+1") + "\n" + call("2+2"))
    assert observation.startswith("Result: 2. Result: 4. Now ")
    assert info["num_tool_calls"] == 2
    assert env._num_done == 1


@pytest.mark.parametrize(
    ("expressions", "answer", "mistake"),
    [
        (("12*3", "36+5"), "41", None),
        (("3*12", "(36) + 5"), "41", None),
        (("13*3", "39+5"), "44", VALUE),
        (("12*4", "48+5"), "53", OPERAND),
        (("12+3", "15+5"), "20", OPERATION),
        (("12*3", "36-5"), "31", OPERATION),
        (("12*3", "35+5"), "40", VALUE),
        (("12", "36+5"), "41", FORM),
        (("12*3+5", "41+5"), "46", FORM),
        (("12*3", "36+5"), "42", ANSWER),
        # a call after the last step is no mistake of the chain
        (("12*3", "36+5", "1+1"), "2", ANSWER),
        # the first one counts
        (("12*4", "47+5"), "52", OPERAND),
        # of two calls in a turn the last, which gives the result that is worked on
        (("12*3 12*4", "48+5"), "53", OPERAND),
        (("12*4 1/0", "48+5"), "53", OPERAND),
    ],
)
def test_the_first_mistake_is_told(expressions: tuple[str, ...], answer: str, mistake: str | None) -> None:
    env = make(horizon=2)
    env.reset(seed=1)
    env._chain = Chain((12, 36, 41), (("*", 3), ("+", 5)))
    for turn in expressions:
        calls = [turn] if "+ " in turn else turn.split()
        env.step("\n".join(map(call, calls)))
    *_, info = env.step(f"\\boxed{{{answer}}}")
    told = {name: value for name, value in info["numbers"].items() if name.startswith("first_mistake/")}
    assert len(told) == 5
    assert {name for name, value in told.items() if value} == ({f"first_mistake/{mistake}"} if mistake else set())


def test_the_turn_of_the_first_mistake_is_told_malformed_turns_counted() -> None:
    env = make(horizon=2)
    for turns, told in (([call("12*3"), call("1+5")], 2.0), (["<tool_call>", call("12*4"), call("48+5")], 2.0)):
        env.reset(seed=1)
        env._chain = Chain((12, 36, 41), (("*", 3), ("+", 5)))
        for turn in turns:
            env.step(turn)
        *_, info = env.step("\\boxed{7}")
        assert info["numbers"]["first_mistake_turn"] == told
    env.reset(seed=1)
    while not (ended := env.step(env.solution()))[2]:
        pass
    assert "first_mistake_turn" not in ended[4]["numbers"]


@pytest.mark.parametrize("reveal", ["stepwise", "upfront"])
def test_an_answer_before_the_last_call_is_no_mistake_of_the_answer(reveal: str) -> None:
    env = make(horizon=2, reveal=reveal)
    env.reset(seed=1)
    env.step(env.solution())
    *_, info = env.step("\\boxed{-7777}")
    assert not any(value for name, value in info["numbers"].items() if name.startswith("first_mistake/"))


@pytest.mark.parametrize(
    ("text", "reward"), [("36", 1.0), ("+36", 1.0), (" $36$ ", 1.0), ("36.0", 0.0), ("\uff16", 0.0), ("-36", 0.0)]
)
def test_answers_are_compared_as_exact_integers(text: str, reward: float) -> None:
    env = make(horizon=1)
    env.reset(seed=1)
    env._chain = Chain((12, 36), (("*", 3),))
    env.step(env.solution())
    assert env.step(f"It is \\boxed{{{text}}}.")[1] == reward


def test_a_wrong_reveal_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'upfront'"):
        make(reveal="up_front")
