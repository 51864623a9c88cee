"""Typed functions as tools, and the calculator."""

import gc
import sys
import threading
import time
import weakref
from typing import Literal

import pytest

from trm_envs import Tool, ToolCall, ToolEnv, ToolError, run_tool_call, tool
from trm_envs.tasks.calculator import calculator, evaluate
from trm_envs.tools import tools_of


def look_up(
    key: str, limit: int = 3, scale: float = 1.0, mode: Literal["fast", "exact"] = "fast", tags: list[str] | None = None
) -> str:
    """Look something up.

    Args:
        key: what to look for
    """
    if key == "raise":
        raise KeyError("gone")
    if key == "tell":
        raise ToolError("not today")
    return f"{key} {limit} {scale} {mode} {tags}"


TOOL = Tool(look_up)


def test_the_schema_follows_from_the_signature() -> None:
    assert TOOL.schema == {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Look something up.",
            "parameters": {
                "type": "object",
                "properties": {
                    "key": {"type": "string", "description": "what to look for"},
                    "limit": {"type": "integer"},
                    "scale": {"type": "number"},
                    "mode": {"type": "string", "enum": ["fast", "exact"]},
                    "tags": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
                },
                "required": ["key"],
            },
        },
    }


def test_good_arguments_reach_the_function() -> None:
    result = run_tool_call([TOOL], ToolCall("look_up", {"key": "a", "scale": 2, "mode": "exact", "tags": ["x"]}))
    assert (result.text, result.ok, result.executed) == ("a 3 2 exact ['x']", True, True)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, 'needs the argument "key"'),
        ({"key": 3}, "must be a string"),
        ({"key": "a", "limit": 1.5}, "must be an integer"),
        ({"key": "a", "limit": True}, "must be an integer"),
        ({"key": "a", "mode": "slow"}, 'one of "fast", "exact"'),
        ({"key": "a", "tags": [1]}, "each item is a string or null"),
        ({"key": "a", "kee": 1}, 'unknown argument "kee"'),
    ],
)
def test_arguments_that_do_not_fit_are_results_that_say_so(arguments: dict, reason: str) -> None:
    result = run_tool_call([TOOL], ToolCall("look_up", arguments))
    assert reason in result.text
    assert (result.ok, result.executed) == (False, False)


def test_a_raising_tool_is_a_result() -> None:
    assert run_tool_call([TOOL], ToolCall("look_up", {"key": "raise"})).text == "Error: KeyError: 'gone'"
    told = run_tool_call([TOOL], ToolCall("look_up", {"key": "tell"}))
    assert (told.text, told.ok, told.executed) == ("Error: not today", False, True)


def test_an_unknown_tool_gets_the_closest_name() -> None:
    assert 'did you mean "look_up"?' in run_tool_call([TOOL], ToolCall("lookup", {})).text
    assert "the tools are: look_up" in run_tool_call([TOOL], ToolCall("zzz", {})).text


def test_a_function_that_cannot_be_described_is_refused() -> None:
    def no_hint(x):  # type: ignore[no-untyped-def]
        return x

    def odd(x: complex) -> str:
        return str(x)

    with pytest.raises(ValueError, match="x has no type hint"):
        Tool(no_hint)
    with pytest.raises(ValueError, match="not supported"):
        Tool(odd)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("3+4", 7),
        (" 12 * 3 ", 36),
        ("-7-8", -15),
        ("2-(3-4)*5", 7),
        ("7//2", 3),
        ("-7%4", 1),
        ("8/4", 2),
        ("+5", 5),
        ("0*9", 0),
        ("8-3-2", 3),
        ("2+3*4-1", 13),
        ("17%5*2", 4),
        ("2*-3", -6),
        ("-(2+3)*--2", -10),
        ("-7//2", -4),
    ],
)
def test_the_calculator_is_exact(expression: str, value: int) -> None:
    assert evaluate(expression) == value
    assert calculator(expression) == str(value)


def test_the_calculator_is_exact_in_many_threads_whatever_runs_in_garbage_collections() -> None:
    # what made Python's own parser fail: code that runs in a collection hands over to another thread that parses
    wrong = []

    def work(first: int) -> None:
        for number in range(first, first + 4000):
            cycle: list = []
            cycle.append(cycle)
            try:
                if evaluate(f"{number}+{first}") != number + first:
                    wrong.append(number)
            except BaseException as error:
                wrong.append(error)

    def runs_in_collections(phase: str, info: dict) -> None:
        sum(range(200))

    interval = sys.getswitchinterval()
    gc.callbacks.append(runs_in_collections)
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(first,)) for first in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
        gc.callbacks.remove(runs_in_collections)
    assert wrong == []


@pytest.mark.parametrize(
    "expression",
    ["", "1+", "7/2", "1/0", "1//0", "1%0", "2**9", "a", "__import__('os')", "1.5", "1,2", "()", "1 2", "007", "1 (2)"],
)
def test_the_calculator_refuses_what_is_not_integer_arithmetic(expression: str) -> None:
    with pytest.raises(ToolError):
        evaluate(expression)


@pytest.mark.parametrize(
    "expression", ["9" * 61, "9" * 59 + "*99", "1+" * 150 + "1", "(" * 101 + "1", "-" * 199, "\uff15+1", "1\n+1"]
)
def test_the_calculator_refuses_the_rest_quickly(expression: str) -> None:
    started = time.process_time()
    with pytest.raises(ToolError):
        evaluate(expression)
    assert time.process_time() - started < 0.5


class Kit(ToolEnv):
    """A fake environment whose tools are a function, methods, and one that a subclass takes away."""

    tools = (look_up,)

    @tool
    def add(self, text: str) -> str:
        """Add to the text of the episode."""
        self.text = getattr(self, "text", "") + text
        return self.text

    @tool
    def dropped(self) -> str:
        """Do nothing."""
        return ""

    @staticmethod
    @tool
    def twice(text: str) -> str:
        """Say it twice."""
        return 2 * text

    def make_task(self) -> str:
        return "go"

    def score(self, answer: str) -> float:
        return 0.0


class SmallerKit(Kit):
    dropped = None  # type: ignore[assignment]


def test_an_environment_has_its_named_tools_and_its_marked_methods() -> None:
    assert [each.name for each in tools_of(Kit)] == ["look_up", "add", "dropped", "twice"]
    assert [each.name for each in tools_of(SmallerKit)] == ["look_up", "add", "twice"]
    assert tools_of(Kit)[1].parameters["required"] == ["text"]


def test_a_tool_that_is_a_method_works_on_its_own_environment() -> None:
    envs = [SmallerKit(), SmallerKit()]
    for env, text in zip(envs, "ab", strict=True):
        env.reset(seed=0)
        env.step(env.call("add", text=text))
        assert env.step(env.call("add", text=text))[0] == 2 * text
        assert env.step(env.call("twice", text=text))[0] == 2 * text


def test_an_environment_goes_without_the_garbage_collector() -> None:
    env = Kit()
    env.reset(seed=0)
    env.step(env.call("add", text="a"))
    gone = weakref.ref(env)
    gc.disable()
    try:
        del env
        assert gone() is None
    finally:
        gc.enable()
