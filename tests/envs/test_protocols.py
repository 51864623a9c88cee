"""Model text <-> tool calls and answers."""

import pytest

from trm_envs import PROTOCOLS, Tool, ToolCall
from trm_envs.protocols import Fenced, Hermes, Tags


def python(code: str) -> str:
    """Run code."""
    return code


def look_up(key: str, limit: int = 3) -> str:
    """Look something up."""
    return f"{key} {limit}"


TOOLS = (Tool(look_up), Tool(python))
HERMES, FENCED, TAGS = Hermes(), Fenced(), Tags()


def format_tool_call(name: str, arguments: dict) -> str:
    return HERMES.format_call(name, arguments)


def parse_turn(text: str):  # type: ignore[no-untyped-def]
    return HERMES.parse(text, ())


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
        ("\\boxed{}", None),
        ("boxed{1}", None),
    ],
)
@pytest.mark.parametrize("protocol", [HERMES, FENCED])
def test_the_answer_is_the_last_box(protocol: Hermes | Fenced, text: str, answer: str | None) -> None:
    assert protocol.parse(text, TOOLS).answer == answer


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=list(PROTOCOLS))
def test_what_a_protocol_writes_it_reads(protocol) -> None:  # type: ignore[no-untyped-def]
    code = "x = 1\nprint(f'{x} <b>')"
    turn = protocol.parse("So:\n" + protocol.format_call("python", {"code": code}, TOOLS), TOOLS)
    assert turn.calls[0].name == "python"
    assert turn.calls[0].arguments["code"] == code
    assert (len(turn.calls), turn.malformed, turn.answer) == (1, None, None)
    assert protocol.parse(protocol.format_answer("12"), TOOLS).answer == "12"
    assert protocol.parse("<think>" + protocol.format_answer("12") + "</think>", TOOLS).answer is None
    assert protocol.parse("nothing", TOOLS) == protocol.parse("", TOOLS)


def test_fences_of_other_languages_are_text() -> None:
    text = "```json\n{}\n```\n```python\na\n```\nand\n``` py\nb\n```\n\\boxed{1}"
    assert [call.arguments["code"] for call in FENCED.parse(text, TOOLS).calls] == ["a", "b"]
    assert FENCED.parse("```json\n{}\n```\\boxed{1}", TOOLS).answer == "1"
    assert "not closed" in (FENCED.parse("```python\na", TOOLS).malformed or "")


def test_a_tag_takes_text_or_json() -> None:
    assert TAGS.parse("<python>1 < 2</python>", TOOLS).calls == (ToolCall("python", {"code": "1 < 2"}),)
    turn = TAGS.parse('<look_up>{"key": "a", "limit": 2}</look_up><python></python>', TOOLS)
    assert turn.calls == (ToolCall("look_up", {"key": "a", "limit": 2}), ToolCall("python", {"code": ""}))
    for text, reason in (("<python>1", "without </python>"), ("<look_up>a</look_up>", "not JSON")):
        assert reason in (TAGS.parse(text, TOOLS).malformed or "")
    assert TAGS.parse("<answer>1</answer> or <answer> 2 </answer>", TOOLS).answer == "2"
    assert TAGS.parse("<answer>1", TOOLS).answer is None


def test_a_protocol_that_cannot_call_the_tools_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a tool whose only required argument is `code`"):
        FENCED.check_tools(TOOLS[:1])
    with pytest.raises(ValueError, match="cannot be written"):
        FENCED.format_call("look_up", {"key": "a"}, TOOLS)
