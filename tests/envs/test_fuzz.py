"""The stream of model outputs, and what the parsers make of it."""

import itertools
import json
import time

import pytest

from tests.envs.faulty_envs import Sound
from trm_envs.fuzz import LONG_CHARS, NESTS, TurnFuzzer
from trm_envs.protocols import PROTOCOLS
from trm_envs.turn import ParsedTurn

pytestmark = pytest.mark.slow

TURNS = [
    "<run>print(12)</run>",
    "<answer>12</answer>",
    "\\boxed{12}",
    '<tool_call>\n{"name": "run", "arguments": {"code": "print(12)"}}\n</tool_call>',
    "```python\nprint(12)\n```",
    "<tool_call>\n<function=run>\n<parameter=code>\nprint(12)\n</parameter>\n</function>\n</tool_call>",
    "<tool_call>run\n<arg_key>code</arg_key>\n<arg_value>print(12)</arg_value>\n</tool_call>",
]


def outputs(number: int, seed: int = 0) -> list[str]:
    return list(itertools.islice(TurnFuzzer(TURNS, ["run", "code"], seed), number))


def test_one_seed_is_one_stream() -> None:
    assert outputs(3000) == outputs(3000)
    assert outputs(100) != outputs(100, seed=1)


def test_the_stream_holds_what_models_write_and_worse() -> None:
    texts = outputs(20_000)
    assert len(set(texts)) > 14_000
    assert any(text in TURNS for text in texts)
    assert any(len(text) >= LONG_CHARS for text in texts)
    for piece in ("\x00", "\ud800", "9" * 1000, "1e999", "</think>", "🙂", "<run>"):
        assert any(piece in text for text in texts), piece
    assert any(opening * 300 in text for text in texts for opening, _ in NESTS)


def test_without_turns_there_is_a_stream_all_the_same() -> None:
    assert len(list(itertools.islice(TurnFuzzer([]), 1000))) == 1000


@pytest.mark.parametrize("name", PROTOCOLS)
def test_no_output_breaks_or_hangs_a_parser(name: str) -> None:
    tools = Sound()._tools
    kinds = {"calls": 0, "malformed": 0, "answer": 0, "nothing": 0}
    for text in outputs(10_000, seed=3):
        started = time.process_time()
        turn = PROTOCOLS[name].parse(text, tools)
        assert time.process_time() - started < 2.0, text[:200]
        assert isinstance(turn, ParsedTurn)
        json.dumps([call.arguments for call in turn.calls])
        assert turn.answer is None or not (turn.calls or turn.malformed)
        kind = "calls" if turn.calls else "malformed" if turn.malformed else "answer" if turn.answer else "nothing"
        kinds[kind] += 1
    assert kinds["calls"] > 200, kinds
    assert all(kinds.values()), kinds
