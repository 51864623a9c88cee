"""Model text <-> tool calls and answers."""

import pytest

from trm_envs import ToolCall, format_tool_call, parse_turn
from trm_envs.protocols import last_boxed


def test_a_formatted_call_parses_back() -> None:
    arguments = {"text": 'ä "quoted" \\ </b>\n', "number": 3, "deep": {"list": [1, None, True]}}
    turn = parse_turn("Let me see.\n" + format_tool_call("tool", arguments))
    assert turn.calls == (ToolCall("tool", arguments),)
    assert turn.malformed is None
    assert turn.answer is None


def test_the_format_is_hermes() -> None:
    expected = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "3+4"}}\n</tool_call>'
    assert format_tool_call("calculator", {"expression": "3+4"}) == expected


def test_several_calls_keep_their_order() -> None:
    text = format_tool_call("a", {}) + format_tool_call("b", {})
    assert [call.name for call in parse_turn(text).calls] == ["a", "b"]


def test_a_call_beats_an_answer_in_the_same_turn() -> None:
    turn = parse_turn("\\boxed{3}" + format_tool_call("a", {}))
    assert len(turn.calls) == 1
    assert turn.answer is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<tool_call>{}", "without </tool_call>"),
        ("{}</tool_call>", "without <tool_call>"),
        ("<tool_call><tool_call>{}</tool_call>", "inside <tool_call>"),
        ("<tool_call></tool_call>", "not JSON"),
        ("<tool_call>{'name': 'a'}</tool_call>", "not JSON"),
        ("<tool_call>" + "[" * 100_000 + "</tool_call>", "not JSON"),
        ('<tool_call>{"name": "a", "arguments": {"x": NaN}}</tool_call>', "NaN is not a JSON number"),
        ('<tool_call>{"name": "a", "arguments": {"x": ' + "9" * 5000 + "}}</tool_call>", "not JSON"),
        ("<tool_call>3</tool_call>", "not a JSON object"),
        ('<tool_call>{"arguments": {}}</tool_call>', 'no "name"'),
        ('<tool_call>{"name": 3}</tool_call>', 'no "name"'),
        ('<tool_call>{"name": "a", "arguments": "{}"}</tool_call>', '"arguments" is not'),
        ('<tool_call>{"name": "a", "parameters": {}}</tool_call>', 'unknown field "parameters"'),
    ],
)
def test_a_malformed_call_says_why(text: str, reason: str) -> None:
    turn = parse_turn(text)
    assert turn.calls == ()
    assert turn.malformed is not None
    assert reason in turn.malformed


def test_one_malformed_call_spoils_the_turn() -> None:
    assert parse_turn(format_tool_call("a", {}) + "<tool_call>x</tool_call>").calls == ()


def test_thoughts_hold_neither_calls_nor_answers() -> None:
    assert parse_turn("<think><tool_call>{} \\boxed{1}</think>\\boxed{2}").answer == "2"
    assert parse_turn("<think>" + format_tool_call("a", {})).calls == ()
    assert parse_turn("thinking \\boxed{1}</think>").answer is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\\boxed{1} then \\boxed{ 2 }.", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{1} and \\boxed{2", None),
        ("\\boxed{}", ""),
        ("boxed{1}", None),
    ],
)
def test_the_answer_is_the_last_box(text: str, answer: str | None) -> None:
    assert last_boxed(text) == answer
