"""Time of the parsers: linear, whatever a model writes."""

import time

import pytest

from tests.envs.protocol_support import SPOKEN, TOOLS, parse
from trm_envs import PROTOCOLS

SIZES = [100_000, pytest.param(500_000, marks=pytest.mark.slow)]
CALL = "<tool_call>\n<function=look_up>\n"
HOSTILE = {
    "openings": "<tool_call>",
    "spaced openings": "<tool_call> \n",
    "closings": "</tool_call>",
    "functions": "<function=a>\n",
    "thoughts": "<think>a</think>",
    "open thoughts": "<think>",
    "ends of thoughts": "</think>",
    "fences": "```\n",
    "python fences": "```python\n",
    "fences of rising length": "".join("`" * length + "python\n" for length in range(3, 400)),
    "tildes": "~~~py\n~~~~x\n",
    "list marks": "- ",
    "numbered": "1. ",
    "backticks": "`",
    "tags": "<python>",
    "json tags": "<look_up>",
    "answers": "<answer>",
    "boxes": "\\boxed{",
    "spaces": " ",
    "tabs": "\t",
    "newlines": "\n",
    "carriage returns": "\r\n",
    "angles": "<",
}
HEADS = {
    "spaces in a key": ("<tool_call>a<arg_key>", " "),
    "closings of values": ("<tool_call>a<arg_key>b</arg_key><arg_value>", "</arg_value>\n"),
    "spaced closings of values": ("<tool_call>a<arg_key>b</arg_key><arg_value>", "</arg_value>" + " " * 1000),
    "keys": ("<tool_call>a", "<arg_key>"),
    "closings of parameters": (CALL + "<parameter=key>", "\n</parameter>\n"),
    "spaced closings of parameters": (CALL + "<parameter=key>", "</parameter>" + " " * 1000),
    "parameters": (CALL, "<parameter=key>\n"),
    "newlines in a parameter": (CALL + "<parameter=key>", "\n"),
    "spaces in a function": (CALL, " "),
    "open braces": ('<tool_call>{"name": "a", "arguments": ', '{"a":'),
    "open brackets": ("<look_up>", "["),
    "wide list": ("<look_up>", '{"a": [1, 2.5, {}, []]},'),
    "strings that never end": ("<tool_call>a", '<arg_key>limit</arg_key><arg_value>["'),
    "lists that never end": (CALL, "<parameter=limit>[1,"),
    "lists as values": ("<tool_call>look_up<arg_key>limit</arg_key><arg_value>", '["</arg_value>",'),
    "digits": ('<tool_call>{"name": ', "9"),
    "escapes": ('<tool_call>{"name": "', "\\ud800"),
    "spaces before a fence": ("```python\n", " " * 1000 + "```"),
    "fence of spaces": (" " * 200_000 + "```python\n", " " * 50 + "x\n"),
    "fence that does not close": ("````python\n", "```\n"),
    "fence with a long info": ("```python ", "x"),
    "spaced fence": ("```", " "),
    "malformed, then thoughts": ("<tool_call>{", "</think><tool_call>{"),
}


TRIES = 3


def assert_read_at_once(name: str, texts: dict[str, str], size: int) -> None:
    """Half a second for a megabyte is what the slowest needs here; a quadratic reader takes minutes."""
    for what, text in texts.items():
        took: list[float] = []
        while len(took) < TRIES and (not took or took[-1] >= 3e-6 * size):  # others may have had the processors' caches
            took.append(seconds(name, text))
        assert took[-1] < 3e-6 * size, (what, took)


def seconds(name: str, text: str) -> float:
    started = time.process_time()
    PROTOCOLS[name].parse(text, TOOLS)
    return time.process_time() - started


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PROTOCOLS)
def test_hostile_text_is_read_at_once(name: str, size: int) -> None:
    texts = {what: piece * (size // len(piece)) for what, piece in HOSTILE.items()}
    texts |= {what: (head + piece * (size // len(piece)))[:size] for what, (head, piece) in HEADS.items()}
    texts["a block far to the right"] = f"{' ' * (size // 2)}```python\n{' ' * (size // 2)}x\n```"
    assert_read_at_once(name, texts, size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PROTOCOLS)
def test_many_calls_and_long_ones_are_read_in_linear_time(name: str, size: int) -> None:
    many = (SPOKEN[name] + "\n") * (size // len(SPOKEN[name]))
    long = PROTOCOLS[name].format_call("python", {"code": "x = '<think>'\n" * (size // 14)}, TOOLS)
    assert len(parse(name, many).calls) == size // len(SPOKEN[name])
    assert len(parse(name, long).calls[0].arguments["code"]) > size - 14
    assert_read_at_once(name, {"many": many, "long": long}, size)
