"""The protocols of chat templates with tags for arguments, in the forms that models write."""

import pytest

from tests.envs.protocol_support import SPOKEN, code_call, parse, write
from trm_envs import ToolCall

CALL = "<tool_call>\n<function=look_up>\n{}</function>\n</tool_call>"


def test_function_tags_are_written_as_the_template_writes_them() -> None:
    assert write("function_tags", "look_up", key="one\ntwo", limit=2, exact=True) == (
        "<tool_call>\n<function=look_up>\n<parameter=key>\none\ntwo\n</parameter>\n<parameter=limit>\n2\n</parameter>\n"
        "<parameter=exact>\ntrue\n</parameter>\n</function>\n</tool_call>"
    )
    assert write("function_tags", "now") == "<tool_call>\n<function=now>\n</function>\n</tool_call>"


def test_arg_tags_are_written_as_the_template_writes_them() -> None:
    assert write("arg_tags", "look_up", key="one\ntwo", limit=2) == (
        "<tool_call>look_up\n<arg_key>key</arg_key>\n<arg_value>one\ntwo</arg_value>\n<arg_key>limit</arg_key>\n"
        "<arg_value>2</arg_value>\n</tool_call>"
    )
    assert write("arg_tags", "now") == "<tool_call>now\n</tool_call>"


@pytest.mark.parametrize(
    "text",
    [
        SPOKEN["function_tags"],
        SPOKEN["function_tags"].removesuffix("\n</tool_call>"),
        SPOKEN["function_tags"].removeprefix("<tool_call>\n"),
        "I run it.\n\n" + SPOKEN["function_tags"].removeprefix("<tool_call>\n"),
        "<tool_call><function=python><parameter=code>print(1)</parameter></function></tool_call>",
        "<tool_call>\n  <function=python>\n  <parameter=code>\nprint(1)\n</parameter>\n  </function>\n</tool_call>\n",
        "Text.\n\n<tool_call>\r\n<function=python>\r\n<parameter=code>\nprint(1)\n</parameter>\r\n</function></tool_call>",
    ],
)
def test_function_tags_read_what_models_write(text: str) -> None:
    turn = parse("function_tags", text)
    assert (turn.calls, turn.malformed) == ((code_call("print(1)"),), None)


@pytest.mark.parametrize(
    "text",
    [
        SPOKEN["arg_tags"],
        SPOKEN["arg_tags"].replace("\n", ""),
        SPOKEN["arg_tags"].replace("python\n", "python \n"),
        SPOKEN["arg_tags"].replace("<tool_call>", "Text.\n<tool_call>\n"),
        SPOKEN["arg_tags"].replace("<arg_key>code<", "<arg_key> code <"),
    ],
)
def test_arg_tags_read_what_models_write(text: str) -> None:
    turn = parse("arg_tags", text)
    assert (turn.calls, turn.malformed) == ((code_call("print(1)"),), None)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("3", 3), ("-3", -3), ("True", True), ("true", True), ("False", False), ("None", None), ("null", None),
        (" 3 ", 3), ("3.5", 3.5), ("1e+20", 1e20), ("[1, 2]", [1, 2]), ("three", "three"), ("NaN", "NaN"), ("", ""),
        ("3 4", "3 4"), ("{'a': 1}", "{'a': 1}"),
    ],
)  # fmt: skip
def test_what_is_no_string_is_json_or_a_word_of_python(written: str, read: object) -> None:
    call = parse("function_tags", CALL.format(f"<parameter=limit>\n{written}\n</parameter>\n")).calls
    assert repr(call) == repr((ToolCall("look_up", {"limit": read}),))
    call = parse(
        "arg_tags", f"<tool_call>look_up<arg_key>limit</arg_key><arg_value>{written}</arg_value></tool_call>"
    ).calls
    assert repr(call) == repr((ToolCall("look_up", {"limit": read}),))


@pytest.mark.parametrize("written", ["3", "true", "None", "null", '"x"', " x ", "[1]", "", "{}"])
def test_a_string_is_its_text(written: str) -> None:
    assert parse("function_tags", CALL.format(f"<parameter=key>\n{written}\n</parameter>")).calls[0].arguments == {
        "key": written
    }
    unknown = f"<tool_call>f<arg_key>a</arg_key><arg_value>{written}</arg_value></tool_call>"
    assert parse("arg_tags", unknown).calls == (ToolCall("f", {"a": written}),)


def test_a_string_that_may_be_left_out_is_null_where_it_says_so() -> None:
    for word, value in (("None", None), ("null", None), ("none", "none"), (" null", " null"), ("", "")):
        call = parse("function_tags", CALL.format(f"<parameter=note>\n{word}\n</parameter>\n")).calls[0]
        assert call.arguments == {"note": value}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("</tool_call>", "without <tool_call>"),
        ("<tool_call>", "comes <function=name>"),
        ("<tool_call>\n<tool_call>", "inside <tool_call>"),
        ("<tool_call>\n{}\n</tool_call>", "comes <function=name>"),
        ("<tool_call>\n<function=>\n</function>", "comes <function=name>"),
        ("<tool_call>\n<function=a>\n</tool_call>", "expected <parameter=name> or </function>"),
        ("<tool_call>\n<function=a>\nx</function>", "expected <parameter=name> or </function>"),
        ("<tool_call>\n<function=a>\n<parameter=>\n</parameter></function>", "expected <parameter=name>"),
        ("<tool_call>\n<function=a>\n<parameter=b>\nx", "without </parameter>"),
        ("<tool_call>\n<function=a>\n<parameter=b>\nx\n</function>", "without </parameter>"),
        ("<tool_call>\n<function=a>\n<parameter=b>\nx\n</parameter>\n", "without </parameter>"),
        (CALL.format("<parameter=b>1</parameter><parameter=b>2</parameter>"), "stands twice"),
        ("\n<function=a", "comes <function=name>"),
    ],
)
def test_malformed_function_tags_say_why(text: str, reason: str) -> None:
    turn = parse("function_tags", text)
    assert turn.calls == ()
    assert reason in (turn.malformed or ""), turn


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("</tool_call>", "without <tool_call>"),
        ("<tool_call>", "comes the function's name"),
        ('<tool_call>{"name": "a"}</tool_call>', "comes the function's name"),
        ("<tool_call></tool_call>", "comes the function's name"),
        ("<tool_call>a b</tool_call>", "expected <arg_key>"),
        ("<tool_call>a", "expected <arg_key>"),
        ("<tool_call>a\n<arg_key>b</arg_key>\n1</tool_call>", "expected <arg_key>"),
        ("<tool_call>a\n<arg_value>1</arg_value></tool_call>", "expected <arg_key>"),
        ("<tool_call>a\n<arg_key>b</arg_key><arg_value>1</tool_call>", "no </arg_value>"),
        ("<tool_call>a\n<arg_key>b</arg_key><arg_value>1</arg_value>", "no </arg_value>"),
        (
            "<tool_call>a<arg_key>b</arg_key><arg_value>1</arg_value><arg_key>b</arg_key><arg_value>2</arg_value></tool_call>",
            "stands twice",
        ),
    ],
)
def test_malformed_arg_tags_say_why(text: str, reason: str) -> None:
    turn = parse("arg_tags", text)
    assert turn.calls == ()
    assert reason in (turn.malformed or ""), turn


def test_a_function_that_is_named_in_the_middle_of_a_line_is_text() -> None:
    assert parse("function_tags", "Write <function=name> for a call: \\boxed{3}").answer == "3"


@pytest.mark.parametrize("name", ["hermes", "tags", "function_tags", "arg_tags"])
def test_messages_about_long_nonsense_are_short(name: str) -> None:
    junk = "z" * 100_000
    texts = (
        f"<tool_call>\n<function={junk}>\n{junk}", f"<tool_call>{junk} {junk}", f"<look_up>{{}}{junk}",
        f'<tool_call>{{"{junk}": 1, "{junk}": 2}}</tool_call>', f'<tool_call>{{"name": "a", "{junk}": 2}}</tool_call>',
        f"<tool_call>a<arg_key>{junk}</arg_key><arg_value>", f"<tool_call><function=a><parameter={junk}>",
    )  # fmt: skip
    for text in texts:
        assert len(parse(name, text).malformed or "") < 400
