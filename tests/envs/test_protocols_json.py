"""JSON in calls: other values are not written, and text that two readers may read in two ways is not read."""

from typing import Any

import pytest

from tests.envs.protocol_support import (
    TOOLS,
    parse,
)
from trm_envs import PROTOCOLS


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("name", ["hermes", "tags", "function_tags", "arg_tags"])
@pytest.mark.parametrize(
    "value",
    [
        object(), {1, 2}, b"x", float("nan"), float("inf"), 10**5000, nested(200), nested(5000), (1, 2), {1: 2},
        {"a": {None: 1}}, {True: 1},
    ],
    ids=lambda value: f"{value!r:.20}" if not isinstance(value, list | int) else type(value).__name__,
)  # fmt: skip
def test_what_is_no_json_value_is_refused_as_a_value_error(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        PROTOCOLS[name].format_call("plot", {"points": [value]}, TOOLS)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('{"name": "a", "name": "b"}', 'the key "name" stands twice'),
        ('{"name": "a", "arguments": {"x": 1, "x": 1}}', 'the key "x" stands twice'),
        ('{"name": "a", "arguments": {"x": -Infinity}}', "-Infinity is not a JSON number"),
        ('{"name": "a", "arguments": {"x": 1e999}}', "1e999 is too large"),
        ('{"name": "a", "arguments": {"x": -' + "9" * 5000 + "}}", "at most 4300 are read"),
        ('{"name": "a", "arguments": {"x": ' + "[" * 150 + "]" * 150 + "}}", "nested deeper than 100"),
        ('{"name": ""}', 'no "name"'),
        ('{"name": "a"} {"name": "b"}', "without </tool_call>; after the JSON object comes"),
        ('{"name": "a"},', "without </tool_call>; after the JSON object comes ',"),
    ],
)
def test_json_that_two_readers_may_read_in_two_ways_is_malformed(body: str, reason: str) -> None:
    turn = parse("hermes", f"<tool_call>\n{body}\n</tool_call>")
    assert turn.calls == ()
    assert reason in (turn.malformed or ""), turn
