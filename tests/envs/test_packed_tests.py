"""Lists of tests that a file holds as text: what is read, and what a few packed bytes cannot do."""

import base64
import json
import os
import pickle
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from trm_envs.tasks.packed_tests import MAX_BYTES, MAX_TESTS, read_pickled_text, unpack_tests

TESTS = [
    {"input": "1 2\n", "output": "3\n", "testtype": "stdin"},
    {"input": '"\\{[', "output": "\u00fc\U0001f600", "time": 1.5, "flag": None, "ok": True},
]


def packed(text: str) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(text))).decode()


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_tests_are_read_from_json_and_from_packed_json(indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(TESTS, indent=indent, ensure_ascii=ascii_only)
    assert list(unpack_tests(text)) == TESTS
    assert list(unpack_tests(packed(text))) == TESTS
    assert list(unpack_tests(" [ ] \n")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "test 0: expected an object"),
        ('[{"input": ["a"]}]', "test 0: expected at most 20 fields of text"),
        ('[{"input": {}}]', "test 0: expected at most 20 fields of text"),
        ('[{"input": "a" "b"}]', "test 0: expected at most 20 fields of text"),
        ('[{"a": "b"}, 3]', "test 1: expected an object"),
        ('[{"a": "b"}', "cut off after test 0"),
        ('[{"a": "b"}] x', "more text follows"),
        ('[{"a": 1e}]', "Expecting|Extra data"),
        ("{}", "incomplete|Incorrect|base64|Invalid|Only"),
        ("AAAA", "while decompressing"),
        (base64.b64encode(zlib.compress(b"x" * 100)[:-5]).decode(), "incomplete"),
        (packed("{}"), "expected a list"),
        (packed("["), "test 0: expected an object"),
    ],
)
def test_anything_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(unpack_tests(text))


class Bomb:
    def __reduce__(self) -> tuple:
        return os.system, ("echo no > pickle_was_run",)


@pytest.mark.parametrize("value", [Bomb(), ["a"], b"a", 3, ("a", "b"), {"a": "b"}, None])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_of_anything_but_a_text_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: object, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="pickle"):
        read_pickled_text(pickle.dumps(value, protocol))
    assert not list(tmp_path.iterdir())
    assert read_pickled_text(pickle.dumps("[ü]", protocol)) == "[ü]"


MEASURE = """
import resource, sys, time
from trm_envs.tasks.packed_tests import unpack_tests
text = sys.stdin.read()
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
try:
    print(sum(len(test) for test in unpack_tests(text)), end=" ")
except ValueError as error:
    print(str(error).replace(" ", "_"), end=" ")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.process_time() - started)
"""


def deflated(piece: bytes, times: int) -> str:
    """Base64 of zlib of a pickled list that repeats a piece, made without holding it."""
    length = 1 + len(piece) * times
    squeezer = zlib.compressobj(9)
    parts = [squeezer.compress(b"\x80\x04\x8d" + length.to_bytes(8, "little") + b"[")]
    parts += [squeezer.compress(piece * (times // 64)) for _ in range(64)]
    parts += [squeezer.compress(b"."), squeezer.flush()]
    return base64.b64encode(b"".join(parts)).decode()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("piece", "size"),
    [
        (b"[" + b" " * 63, 2 * MAX_BYTES),
        (b"[],[", MAX_BYTES - 4096),
        (b'{"input":"","output":""},', MAX_BYTES - 4096),
        (b'{"input":1,"0":1,"1":1,"2":1,', MAX_BYTES - 4096),
        (b'{"input":"aaaaaaaaaaaaaa', MAX_BYTES - 4096),
    ],
)
def test_a_few_packed_bytes_cost_little_memory_and_time(piece: bytes, size: int) -> None:
    text = deflated(piece, size // len(piece) // 64 * 64)
    assert len(text) < 2_000_000
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], input=text, capture_output=True, text=True, timeout=60, check=True
    )
    said, kibibytes, seconds = done.stdout.split()
    assert said.startswith(("test_", "is_longer", "has_more"))
    assert int(kibibytes) * 1024 < 5 * MAX_BYTES
    assert float(seconds) < 3


def test_more_tests_than_are_allowed_are_refused() -> None:
    with pytest.raises(ValueError, match=f"more than {MAX_TESTS} tests"):
        list(unpack_tests(json.dumps([{"input": ""}] * (MAX_TESTS + 1))))
    assert len(list(unpack_tests(json.dumps([{"input": ""}] * MAX_TESTS)))) == MAX_TESTS
