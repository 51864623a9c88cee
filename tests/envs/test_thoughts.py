"""Thoughts, and words said aloud."""

import re

import pytest

from tests.envs.protocol_support import SPOKEN, TOOLS, code_call, parse
from trm_envs.protocols import PROTOCOLS
from trm_envs.scoring.extract import extract_answer
from trm_envs.thoughts import speech

NAMES = list(PROTOCOLS)


def answer(name: str, text: str) -> str:
    return PROTOCOLS[name].format_answer(text)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "thought",
    [
        "<think>\nmaybe {twelve}, let me check",
        "<think>\n{twelve}",
        "<think>{call}",
        "<think>\nI call {call} and get {twelve}",
        "<think><think>{call}",
        "\n <think>\n{call}{twelve}",
    ],
)
def test_a_thought_that_is_never_closed_holds_no_answer_and_no_call(name: str, thought: str) -> None:
    turn = parse(name, thought.replace("{twelve}", answer(name, "12")).replace("{call}", SPOKEN[name]))
    assert (turn.calls, turn.malformed, turn.answer) == ((), None, None)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "inside",
    ["{call}", "{twelve}", "<tool_call>", "</tool_call>", "```python\n", "<python>", "<function=x>", "<think>"],
)
def test_after_a_closed_thought_only_what_is_said_is_read(name: str, inside: str) -> None:
    inside = inside.replace("{twelve}", answer(name, "12")).replace("{call}", SPOKEN[name])
    assert parse(name, f"<think>\n{inside}\n</think>\n\n{answer(name, '7')}").answer == "7"
    assert parse(name, f"<think>\n{inside}\n</think>\n\n{SPOKEN[name]}").calls == (code_call("print(1)"),)
    assert parse(name, f"<think>\n{inside}\n</think>\n").answer is None


@pytest.mark.parametrize("name", NAMES)
def test_a_thought_ends_at_its_first_closing_tag(name: str) -> None:
    text = f"<think>a</think>{answer(name, '7')}</think>"
    assert parse(name, text).answer == "7"
    assert parse(name, f"<think>a</think>\n{SPOKEN[name]}\n</think> and").calls == (code_call("print(1)"),)


@pytest.mark.parametrize("name", NAMES)
def test_thoughts_in_the_middle_are_passed_over(name: str) -> None:
    text = f"First.\n{SPOKEN[name]}\n<think>{SPOKEN[name]}</think>\n{SPOKEN[name]}\n<think>{answer(name, '3')}</think>"
    assert parse(name, text).calls == (code_call("print(1)"),) * 2
    text = f"{answer(name, '7')} <think>or {answer(name, '8')}?</think> <think>{answer(name, '9')}</think>"
    assert parse(name, text).answer == "7"


@pytest.mark.parametrize("name", NAMES)
def test_a_closing_tag_alone_ends_a_thought_that_the_prompt_opened(name: str) -> None:
    for thought in (SPOKEN[name], answer(name, "3"), "I could write <tool_call> here", "</tool_call>"):
        assert parse(name, f"{thought}\n</think>\n{answer(name, '7')}").answer == "7"
        assert parse(name, f"{thought}\n</think>\n{SPOKEN[name]}").calls == (code_call("print(1)"),)
        assert parse(name, f"{thought}\n</think>").answer is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("code", ["s = '<think>'", "x = '</think>'", "'</think><think>'", "<think>\n</think>"])
def test_think_tags_inside_a_call_are_text(name: str, code: str) -> None:
    call = PROTOCOLS[name].format_call("python", {"code": code}, TOOLS)
    for before in ("", "So.\n", "<think>hm</think>\n", "hm</think>\n", "<think>a</think>b<think>c</think>\n"):
        for after in ("", "\n", "\n<think>hm", "\nthen <think>hm</think>"):
            assert parse(name, before + call + after).calls == (code_call(code),), (before, after)


def test_a_malformed_call_before_a_thought_is_told() -> None:
    assert "not JSON" in (parse("hermes", "<tool_call>{x}</tool_call><think>a</think>").malformed or "")
    assert "not JSON" in (parse("hermes", "<think>a</think><tool_call>{x}</tool_call></think>").malformed or "")


def test_nothing_is_put_together_across_a_thought() -> None:
    assert parse("hermes", "\\box<think>a</think>ed{5}").answer is None
    assert parse("hermes", "<tool_<think>a</think>call>").malformed is None
    assert parse("tags", "<ans<think>a</think>wer>5</answer>").answer is None


def test_the_scorer_reads_the_same_speech() -> None:
    for text in ("<think>\\boxed{1}</think>\\boxed{2}", "\\boxed{1}</think>\\boxed{2}", "\\boxed{2}<think>\\boxed{3}"):
        assert extract_answer(text).answer == "2" == parse("hermes", text).answer
    assert extract_answer("<think>\nmaybe \\boxed{12}, let me check").answer is None


def test_speech_is_what_stands_outside_of_thoughts() -> None:
    # an independent reading: thoughts are cut out by a regular expression
    for text in ("a", "<think>b</think>c", "a<think>b</think>c<think>d</think>e<think>f", "<think></think>", ""):
        assert speech(text).replace("\n", "") == re.sub(r"<think>.*?(</think>|$)", "", text)
