"""A protocol reads its own texts: the same call, or a refusal for a documented reason."""

import inspect
import json
import re
from typing import Any

import pytest
from hypothesis import strategies as st

from tests.envs.protocol_support import (
    EXAMPLES,
    JSON_VALUES,
    LOOK_UP,
    NASTY_TEXT,
    NOW,
    NUMBERS,
    PLOT,
    PYTHON,
    SPOKEN,
    TOOLS,
    code_call,
    holds,
    parse,
)
from trm_envs import PROTOCOLS, Tool, ToolCall

NAMES = list(PROTOCOLS)
TAGGED = ["function_tags", "arg_tags"]
FITTING = {
    PYTHON.name: st.fixed_dictionaries({"code": NASTY_TEXT}),
    LOOK_UP.name: st.fixed_dictionaries(
        {"key": NASTY_TEXT},
        optional={"limit": st.integers(), "exact": st.booleans(), "note": st.none() | NASTY_TEXT},
    ),
    PLOT.name: st.fixed_dictionaries(
        {"points": st.lists(NUMBERS, max_size=4)},
        optional={
            "style": st.sampled_from(["line", "dots"]),
            "options": st.none() | st.dictionaries(NASTY_TEXT, JSON_VALUES, max_size=2),
        },
    ),
    NOW.name: st.just({}),
}
CALLS = st.one_of([st.builds(ToolCall, st.just(name), arguments) for name, arguments in FITTING.items()])
ODD_CALLS = st.builds(
    ToolCall,
    st.sampled_from([tool.name for tool in TOOLS]) | NASTY_TEXT,
    st.dictionaries(st.sampled_from(["code", "key", "limit", "note", "points"]) | NASTY_TEXT, JSON_VALUES, max_size=3),
)


def written(name: str, call: ToolCall) -> str | None:
    try:
        return PROTOCOLS[name].format_call(call.name, call.arguments, TOOLS)
    except ValueError:
        return None


def is_same(call: ToolCall, other: ToolCall) -> bool:
    return call == other and repr(call) == repr(other)


def may_be_refused(name: str, call: ToolCall) -> bool:
    """Say whether the documentation allows the protocol to refuse a call with fitting arguments."""
    strings = [value for value in call.arguments.values() if isinstance(value, str)]
    if name == "fenced":
        return call.name != "python"
    if name == "tags":
        return call.name == "python" and any("</python>" in text for text in strings)
    ending = {
        "function_tags": r"</parameter>[ \t\r\n]*(<parameter=|</function>)",
        "arg_tags": r"</arg_value>[ \t\r\n]*(<arg_key>|</tool_call>)",
    }
    if name in ending:
        return call.arguments.get("note") in ("null", "None") or any(re.search(ending[name], each) for each in strings)
    return False


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("name", NAMES)
def test_fitting_calls_read_back_or_are_refused_as_documented(name: str, examples: int) -> None:
    def check(call: ToolCall) -> None:
        text = written(name, call)
        assert (text is None) == may_be_refused(name, call)
        if text is not None:
            turn = parse(name, text)
            assert (len(turn.calls), turn.malformed) == (1, None)
            assert is_same(turn.calls[0], call)

    holds(examples, check, CALLS)


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("name", NAMES)
def test_calls_that_fit_no_tool_read_back_or_are_refused(name: str, examples: int) -> None:
    def check(call: ToolCall) -> None:
        text = written(name, call)
        if text is not None:
            assert is_same(parse(name, text).calls[0], call)
        elif name == "hermes":
            assert not call.name, "only a call without a name"

    holds(examples, check, ODD_CALLS)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_what_hermes_writes_is_json_in_any_encoding(examples: int) -> None:
    def check(call: ToolCall) -> None:
        text = written("hermes", call)
        assert text is not None
        body = text.removeprefix("<tool_call>").removesuffix("</tool_call>")
        # the reader of the standard library, as an oracle
        assert json.loads(body) == {"name": call.name, "arguments": call.arguments}
        # two surrogates that would make one character have no encoding
        if not re.search(r"[\ud800-\udbff]\\ud", body):
            text.encode()

    holds(examples, check, ODD_CALLS.filter(lambda call: bool(call.name)))


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("name", NAMES)
def test_several_calls_keep_their_order(name: str, examples: int) -> None:
    def check(calls: list[ToolCall], gap: str) -> None:
        both = [(call, text) for call in calls if (text := written(name, call)) is not None]
        # a fence stands in a line of its own
        turn = parse(name, (gap if name != "fenced" else gap + "\n").join(text for _, text in both))
        assert turn.malformed is None
        assert [repr(call) for call in turn.calls] == [repr(call) for call, _ in both]

    gaps = st.sampled_from(["", "\n", "\n\nand then\n", " \n<think>x</think>\n"])
    holds(examples, check, st.lists(CALLS, min_size=2, max_size=4), gaps)


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("name", NAMES)
def test_what_follows_a_call_does_not_change_it(name: str, examples: int) -> None:
    def check(call: ToolCall, after: str) -> None:
        if (text := written(name, call)) is not None:
            # the thought keeps a </think> in `after` from making thought of what came before
            turn = parse(name, f"<think></think>\n{text}\n{after}")
            assert turn.malformed is not None or is_same(turn.calls[0], call)

    holds(examples, check, CALLS, NASTY_TEXT)


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_a_thought_is_read(name: str, examples: int) -> None:
    def check(text: str) -> None:
        thought = "<think>" + text.replace("</think>", "")
        turn = parse(name, thought)
        assert (turn.calls, turn.malformed, turn.answer) == ((), None, None)
        for closed in (f"{thought}</think>\n{SPOKEN[name]}", f"{thought}</think>{SPOKEN[name]}\n{thought}"):
            assert parse(name, closed).calls == (code_call("print(1)"),)
        assert parse(name, f"{thought}</think>{PROTOCOLS[name].format_answer('7')}").answer == "7"

    holds(examples, check, NASTY_TEXT)


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("name", NAMES)
def test_any_text_can_be_parsed(name: str, examples: int) -> None:
    def check(text: str) -> None:
        turn = parse(name, text)
        assert turn.answer is None or not (turn.calls or turn.malformed)
        assert not (turn.calls and turn.malformed)
        for call in turn.calls:
            json.dumps(call.arguments, allow_nan=False)

    holds(2 * examples, check, NASTY_TEXT)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "code",
    [
        "print('</tool_call>')", "s = '<think>'", "x = '</think>'", "x\n", "x\n\n\n", "\n\nx", "", "\n", " ", "\r\n",
        "a\r\nb", "'''\n```\n'''", "'''\n``````\n'''", "# ```python\n```\n", "'<tool_call>\\n{}\\n</tool_call>'",
        "</parameter>", "'</function>'", "</arg_value>", "<arg_key>", "<answer>1</answer>", "\\boxed{3}", "\x00",
        "\u2028\x85", "\ud800", "😀", "\ud83d\ude00", "null", "3", '"', "{}", "<python>", "    x\n\ty", "x = 1  \n",
        "~~~", "</answer>",
    ],
)  # fmt: skip
def test_code_comes_back_unchanged(name: str, code: str) -> None:
    text = PROTOCOLS[name].format_call("python", {"code": code}, TOOLS)
    assert parse(name, text).calls == (code_call(code),)
    assert parse(name, f"<think>\nlet me see</think>\n\n{text}").calls == (code_call(code),)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("tags", "print('</python>')"),
        ("function_tags", "s = '''\n</parameter>\n</function>'''"),
        ("function_tags", "</parameter><parameter=x>"),
        ("arg_tags", "</arg_value>\n</tool_call>"),
        ("arg_tags", "</arg_value> <arg_key>"),
    ],
)
def test_what_would_end_the_call_is_refused(name: str, code: str) -> None:
    with pytest.raises(ValueError, match=r"would end the call|cannot be written"):
        PROTOCOLS[name].format_call("python", {"code": code}, TOOLS)


@pytest.mark.parametrize("name", [*TAGGED, "tags", "hermes"])
def test_tags_inside_the_strings_of_json_are_text(name: str) -> None:
    text = "</parameter>\n</function>\n</tool_call></arg_value><arg_key></plot></think>"
    call = ToolCall("plot", {"points": [], "options": {text: [text, {"a": text}]}})
    assert is_same(parse(name, written(name, call) or "").calls[0], call)


@pytest.mark.parametrize("name", TAGGED)
@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("python", {"code": 3}), ("python", {"code": None}), ("look_up", {"limit": "3"}), ("look_up", {"": "x"}),
        ("look_up", {"limit": "True"}), ("look_up", {"note": "null"}), ("look_up", {"key>": "x"}), ("", {}),
        ("look_up", {"a\n<b": "x"}), ("a<b", {}), ("no_such_tool", {"x": 1}), ("plot", {"points": {1: 2}}),
        ("plot", {"points": (1, 2)}),
    ],
)  # fmt: skip
def test_what_text_between_tags_cannot_say_is_refused(name: str, tool: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        PROTOCOLS[name].format_call(tool, arguments, TOOLS)


def test_a_number_keeps_its_value() -> None:
    for value in (0.1, 1 / 3, 5e-324, 1.7976931348623157e308, 2**53 + 1, -(10**4000), -0.0, 1.0, True):
        for name in ("hermes", "tags"):
            call = ToolCall("plot", {"points": [value]})
            assert is_same(parse(name, written(name, call) or "").calls[0], call)


@pytest.mark.parametrize("name", NAMES)
def test_tools_of_any_signature_can_be_called(name: str) -> None:
    def make(parameters: dict[str, Any], required: int) -> Tool:
        def function(**_: Any) -> None: ...

        function.__name__ = "tool"
        function.__annotations__ = parameters
        defaults = [inspect.Parameter.empty] * required + [None] * (len(parameters) - required)
        function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=value)
                for key, value in zip(parameters, defaults, strict=True)
            ]
        )
        return Tool(function)

    cases: list[tuple[dict[str, Any], int, dict[str, Any]]] = [
        ({"code": str}, 1, {"code": "</think>"}),
        ({"code": str}, 0, {}),
        ({"code": str}, 0, {"code": "x</tool>"}),
        ({"code": str | None}, 1, {"code": None}),
        ({"code": str, "more": bool}, 1, {"code": "x", "more": False}),
        ({"code": dict}, 1, {"code": {"</tool>": ["</tool>", None, 1.5]}}),
    ]
    for parameters, required, arguments in cases:
        tools = (make(parameters, required),)
        if name == "fenced" and not (required and isinstance(arguments["code"], str) and len(arguments) == 1):
            continue
        text = PROTOCOLS[name].format_call("tool", arguments, tools)
        assert PROTOCOLS[name].parse(text, tools).calls == (ToolCall("tool", arguments),)
