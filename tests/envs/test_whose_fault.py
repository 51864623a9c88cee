"""Whose fault it was, on the environments' side: what the model's text can break is its own; the rest is not."""

import asyncio
import re
import sys
from collections.abc import Callable
from typing import Any

import gymnasium
import pytest

import trm_envs
from tests.envs.env_support import raising
from trm_envs import InfrastructureError, ToolError, VerifierError, tool
from trm_envs.sandbox import SandboxUnavailable
from trm_envs.tool_time import LEAST_S


class Mine(trm_envs.ToolEnv):
    """An environment of one's own; `reaction` is what its functions do with a text."""

    system_prompt = "Give {answer}."
    reaction: Callable[[str], Any] = staticmethod(float)
    place = "score"

    def make_task(self) -> str:
        return "2 + 3?"

    @tool
    def look(self, text: str) -> str:
        """Look at a text."""
        return self._react("look", text, text)

    def follow_up(self, results: Any) -> str:
        return self._react("follow_up", results[0].text, super().follow_up(results))

    def follow_answer(self, answer: str) -> str | None:
        return self._react("follow_answer", answer, None)

    def score(self, answer: str) -> float:
        return self._react("score", answer, 1.0)

    def numbers(self) -> dict[str, float]:
        return self._react("numbers", "", {"n": 1.0})

    def _react(self, place: str, text: str, usual: Any) -> Any:
        return self.reaction(text) if place == self.place else usual


class Rude(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def recursion(text: str) -> Any:
    return recursion(text)


FAULTS = {
    "ValueError": lambda text: int("five"),
    "SystemExit": lambda text: sys.exit(text),
    "KeyboardInterrupt": raising(KeyboardInterrupt()),
    "CancelledError": raising(asyncio.CancelledError()),
    "GeneratorExit": raising(GeneratorExit()),
    "MemoryError": raising(MemoryError()),
    "AssertionError": raising(AssertionError("\ud800")),
    "RecursionError": recursion,
    "ZeroDivisionError": lambda text: 1 / 0,
    "Rude": raising(Rude()),
}


def in_a_thread(run: Callable[[], Any]) -> Any:
    """As trainers step environments; a KeyboardInterrupt there is nobody's key."""

    async def wait() -> Any:
        return await asyncio.to_thread(run)

    return asyncio.run(wait())


def mine(place: str, reaction: Callable[[str], Any], **options: Any) -> Mine:
    env = Mine(split="all", **options)
    env.place, env.reaction = place, reaction  # type: ignore[method-assign, assignment]
    env.reset(seed=0)
    return env


@pytest.mark.parametrize("place", ["score", "follow_answer", "follow_up"])
@pytest.mark.parametrize("name", FAULTS)
def test_what_an_environments_own_code_raises_on_the_text_is_wrong_and_counted(place: str, name: str) -> None:
    env = mine(place, FAULTS[name])
    action = env.call("look", text="x") if place == "follow_up" else env.answer("x")
    _, reward, terminated, truncated, info = in_a_thread(lambda: env.step(action))
    assert (reward, terminated, truncated, info["success"]) == (0.0, True, False, False)
    assert info["scorer_error"].startswith(f"{place} raised {name}: ")
    assert re.search(r" \(at \S+\.py:\d+ in .+\)$", info["scorer_error"])
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(action)
    env.reset(seed=0)
    env.place = ""
    assert env.step(env.answer("5"))[1] == 1.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "one", 1j, [1.0], 10**400])
def test_a_score_that_is_no_finite_number_is_wrong_and_counted(value: Any) -> None:
    _, reward, terminated, _, info = mine("score", lambda text: value).step("\\boxed{x}")
    assert (reward, terminated, info["success"]) == (0.0, True, False)
    assert info["scorer_error"].startswith("score raised ")


def test_what_numbers_raise_leaves_the_verdict() -> None:
    for reaction in (FAULTS["ZeroDivisionError"], lambda text: {"n": float("nan")}, lambda text: None):
        _, reward, _, _, info = mine("numbers", reaction).step("\\boxed{x}")
        assert (reward, info["success"], info["numbers"], "scorer_error" in info) == (1.0, True, {}, False)
        assert info["numbers_error"].startswith("numbers raised ")


@pytest.mark.parametrize("name", FAULTS)
def test_a_tool_that_raises_is_an_observation(name: str) -> None:
    env = mine("look", FAULTS[name])
    observation, _, terminated, truncated, info = in_a_thread(lambda: env.step(env.call("look", text="x")))
    assert observation.startswith(f"Error: {name}: ")
    observation.encode()  # no half of a surrogate pair reaches a tokenizer
    assert (terminated, truncated, info["num_tool_calls"], info["malformed"]) == (False, False, 1, False)
    assert mine("look", raising(ToolError("so"))).step(env.call("look", text="x"))[0] == "Error: so"


def test_an_interrupt_from_the_keyboard_goes_on() -> None:
    for place, action in (("score", "\\boxed{x}"), ("look", Mine(split="all").call("look", text="x"))):
        with pytest.raises(KeyboardInterrupt):
            mine(place, FAULTS["KeyboardInterrupt"]).step(action)


@pytest.mark.parametrize("kind", [InfrastructureError, VerifierError, SandboxUnavailable])
@pytest.mark.parametrize("place", ["score", "follow_answer", "follow_up", "look"])
def test_what_says_of_itself_that_it_is_infrastructure_goes_on(kind: type[Exception], place: str) -> None:
    env = mine(place, raising(kind("gone")))
    with pytest.raises(kind, match="gone"):
        env.step(env.call("look", text="x") if place in ("follow_up", "look") else env.answer("x"))


def test_a_protocol_that_fails_on_a_text_makes_it_malformed(monkeypatch: pytest.MonkeyPatch) -> None:
    env = mine("", float)
    monkeypatch.setattr(type(env.protocol), "parse", raising(RecursionError("deep")))
    observation, _, terminated, _, info = env.step("x")
    assert (observation, terminated, info["malformed"]) == (
        "Error: the turn cannot be read: RecursionError: deep", False, True,
    )  # fmt: skip


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\ud83d\ude00", "\x00\udc80"])
def test_a_text_that_is_shown_again_is_unicode(text: str) -> None:
    env = mine("", float)
    for action in (env.call("look", text=text), env.call(text, a=1), env.call("look", **{text: text})):
        action = action.encode("ascii", "backslashreplace").decode() if not action.isascii() else action
        env.step(action)[0].encode()
    env.place, env.reaction = "follow_answer", lambda answer: answer  # type: ignore[method-assign, assignment]
    assert "\ud83d" not in env.step(env.answer(text))[0]


def test_voiding_gains_nothing_where_the_score_is_an_int_of_the_answer() -> None:
    """Ten tasks, three of them solved: honest play and play that breaks the scorer when unsure report one rate."""
    rates = []
    for unsure in ("4", "I do not know", "9" * 5000, "5.0", "\ud800", "", "five"):
        rewards = []
        for task in range(10):
            env = mine("score", lambda answer: int(answer) == 5)
            _, reward, terminated, _, info = env.step(env.answer("5" if task < 3 else unsure))
            if not terminated:  # an empty answer is none: the episode would go on to its end without one
                assert unsure == ""
            rewards.append(reward)
            assert ("scorer_error" in info) == (task >= 3 and unsure not in ("4", ""))
        assert len(rewards) == 10
        rates.append(sum(rewards) / len(rewards))
    assert rates == [0.3] * len(rates)


def test_a_refused_call_is_no_malformed_one_and_a_used_up_budget_is_at_least_what_a_sandbox_takes() -> None:
    env = mine("look", lambda text: "time limit exceeded")
    assert env.step(env.call("time limit exceeded"))[4]["malformed"] is True
    env.tool_time.set_limits(LEAST_S / 2, None)
    observation, _, _, _, info = env.step(env.call("look", text="x"))
    assert (observation, info["malformed"], info["num_tool_calls"]) == ("Error: time limit exceeded", False, 0)
