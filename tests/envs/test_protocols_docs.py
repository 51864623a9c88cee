"""The page about the protocols says what they do."""

import re
from pathlib import Path

from tests.envs.protocol_support import TOOLS, code_call
from trm_envs import PROTOCOLS, ToolCall

PAGE = (Path(__file__).parents[2] / "docs" / "protocols.md").read_text()


def test_every_protocol_has_its_row_and_its_example() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.split("## Reading a turn")[0], re.MULTILINE)
    assert sorted(rows) == sorted(PROTOCOLS)
    examples = dict(re.findall(r"^(\w+):\n\n````text\n(.*?)\n````$", PAGE, re.MULTILINE | re.DOTALL))
    assert sorted(examples) == sorted(PROTOCOLS)
    look_up = ToolCall("look_up", {"key": "one", "limit": 2})
    for name, text in examples.items():
        call = code_call("print(3 + 4)") if name == "fenced" else look_up
        assert PROTOCOLS[name].parse(text, TOOLS).calls == (call,), name
        assert PROTOCOLS[name].format_call(call.name, call.arguments, TOOLS) == text, name


def test_who_shows_the_tools_is_said_right() -> None:
    for name, protocol in PROTOCOLS.items():
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
        shows = "the template" if protocol.template_shows_tools else "the system prompt"
        assert row.split("|")[4].strip() == shows
        assert protocol.format_answer("...") in row
