"""Files of tasks: the forms that are read, and what is said of files that cannot be."""

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trm_envs.rows import MathRow, check_row_options, convert_rows, iter_rows, load_math_rows, once_per_file, read_rows

CHAT = [{"role": "user", "content": "Solve it. The last line is Answer: $Answer.\n\nWhat is 6*7?"}]


def write_jsonl(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_parquet(path: Path, *rows: dict) -> str:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return str(path)


FORMS = [
    # DAPO-Math: chat messages, the truth inside reward_model; the instruction text stays as it is
    ({"prompt": CHAT, "reward_model": {"ground_truth": "42", "style": "rule"}}, MathRow(CHAT[0]["content"], "42")),
    # its deduplicated form: `solution` holds the answer
    ({"prompt": "What is 6*7?", "solution": "42"}, MathRow("What is 6*7?", "42")),
    # AIME, with leading zeros, as text or as a number
    ({"Problem": "P", "Answer": "033", "ID": 7}, MathRow("P", "033")),
    ({"problem": "P", "answer": 33}, MathRow("P", "33")),
    # a table with an empty cell turns integers into floats
    ({"problem": "P", "answer": 33.0}, MathRow("P", "33.0")),
    # MATH: the answer in the solution's last box
    ({"problem": "P", "solution": "As $1+1=2$,\nit is $\\boxed{\\frac{1}{2}}$."}, MathRow("P", "\\frac{1}{2}")),
    ({"question": "Q", "answer": "x^2 + 1"}, MathRow("Q", "x^2 + 1")),
    # ground_truth goes before answer, answer before solution; an empty field is not there
    ({"prompt": None, "question": "Q", "answer": "1", "solution": "long\ntext"}, MathRow("Q", "1")),
    (
        {"prompt": [{"role": "system", "content": "Be brief."}, *CHAT], "answer": "42"},
        MathRow(CHAT[0]["content"], "42", "Be brief."),
    ),
]


@pytest.mark.parametrize(("row", "expected"), FORMS)
def test_known_forms_are_read_from_both_kinds_of_file(tmp_path: Path, row: dict, expected: MathRow) -> None:
    assert load_math_rows(write_jsonl(tmp_path / "a.jsonl", row, row)) == (expected, expected)
    assert load_math_rows(write_parquet(tmp_path / "a.parquet", row)) == (expected,)


@pytest.mark.slow
@given(st.lists(st.dictionaries(st.text(max_size=5), st.text() | st.integers() | st.none()), min_size=1, max_size=5))
def test_any_object_survives_the_way_through_a_file(tmp_path_factory: pytest.TempPathFactory, rows: list[dict]) -> None:
    folder = tmp_path_factory.mktemp("rows")
    assert read_rows(write_jsonl(folder / "a.jsonl", *rows)) == rows
    (folder / "a.json").write_text(json.dumps(rows))
    assert read_rows(str(folder / "a.json")) == rows


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(
        b'\xef\xbb\xbf{"question": "A", "answer": 1}\r\n\n{"question": "B", "answer": 2}'
    )
    assert [row.question for row in load_math_rows(str(tmp_path / "a.jsonl"))] == ["A", "B"]


def test_more_rows_than_a_batch_keep_their_order(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", *({"n": number} for number in range(2500)))
    assert [row["n"] for row in iter_rows(path)] == list(range(2500))


GOOD = {"question": "Q", "answer": "1"}
BAD_ROWS = [
    ({"question": "Q"}, ["row 1", "none of the fields reward_model.ground_truth", "its fields are: question"]),
    ({"answer": "1"}, ["row 1", "none of the fields prompt", "its fields are: answer"]),
    ({}, ["row 1", "its fields are: none"]),
    ({"question": " ", "answer": "1"}, ['field "question"', "is empty", "expected text"]),
    ({"question": 5, "answer": "1"}, ['field "question"', "is a number"]),
    ({"question": "a \ud800", "answer": "1"}, ['field "question"', "character 2", "surrogate"]),
    ({"question": "Q", "answer": ""}, ['field "answer"', "is empty"]),
    ({"question": "Q", "answer": True}, ['field "answer"', "is true or false", "text or a number"]),
    ({"question": "Q", "answer": ["1"]}, ['field "answer"', "is a list"]),
    ({"question": "Q", "answer": "\\boxed{}"}, ['field "answer"', "cannot be scored", "the final answer alone"]),
    ({"question": "Q", "answer": "\\frac{1}{2"}, ['field "answer"', "balanced braces"]),
    ({"question": "Q", "answer": "1" * 2001}, ['field "answer"', "2000 characters"]),
    ({"question": "Q", "solution": "First,\nthen 3."}, ['field "solution"', "several lines"]),
    ({"prompt": [], "answer": "1"}, ['field "prompt"', "0 user messages"]),
    ({"prompt": CHAT * 2, "answer": "1"}, ['field "prompt"', "2 user messages"]),
    ({"prompt": ["hi"], "answer": "1"}, ['field "prompt"', "role None"]),
    ({"prompt": [{"role": "assistant", "content": "x"}], "answer": "1"}, ["role 'assistant'", '"system" and "user"']),
    ({"prompt": [{"role": "user", "content": [{}]}], "answer": "1"}, ['field "prompt.content"', "is a list"]),
    ("text", ["row 1", "is text", "must be an object"]),
    ([1], ["row 1", "is a list", "must be an object"]),
]


@pytest.mark.parametrize(("row", "parts"), BAD_ROWS)
def test_a_bad_row_is_named_with_its_file_its_number_and_the_field(tmp_path: Path, row: Any, parts: list[str]) -> None:
    path = write_jsonl(tmp_path / "bad.jsonl", GOOD, row)
    with pytest.raises(ValueError, match=r"bad\.jsonl, row 1") as caught:
        load_math_rows(path)
    assert [part for part in parts if part not in str(caught.value)] == []


BAD_FILES = [
    ("a.jsonl", b"", "holds no rows"),
    ("a.jsonl", b" \n\n", "holds no rows"),
    ("a.json", b"", "holds no rows"),
    ("a.json", b"[]", "holds no rows"),
    ("a.json", b'{"question": "Q"}', "holds an object; expected a list"),
    ("a.jsonl", b'{"question": "Q", "answer": 1}\n{"question": "Q", "ans', "line 2: is not JSON .* cut off"),
    ("a.jsonl", b"question,answer\n", "line 1: is not JSON"),
    ("a.jsonl", b"[" * 100_000, "line 1: is not JSON"),
    ("a.jsonl", b'{"n": ' + b"9" * 5000 + b"}", "line 1: is not JSON"),
    ("a.jsonl", b'{"question": "Q"}\n{"question": "caf\xe9"}', "line 2: byte 17 is not UTF-8; save the file as UTF-8"),
    ("a.json", "[]".encode("utf-16"), "byte 0 is not UTF-8"),
    ("a.parquet", b"", "is not a Parquet file, or is damaged"),
    ("a.parquet", b"PAR1 nothing PAR1", "is not a Parquet file, or is damaged"),
    ("a.csv", b"question,answer\n", "expected a name that ends in .jsonl, .json, .parquet"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES)
def test_a_file_that_cannot_be_read_is_refused_with_the_way_out(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_rows(str(tmp_path / name))
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "rows",
    [[{"question": "x" * 30_000}] * 500, [{"turns": ["x" * 10_000] * 30}] * 20, [{"question": "x" * 5_000_000}]],
)
def test_a_short_parquet_file_that_grows_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[dict]
) -> None:
    monkeypatch.setattr("trm_fields.parquet_size.FREE_BYTES", 1 << 22)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 40_000
    with pytest.raises(ValueError, match="holds more than 4 MiB when read, over 100 times its length"):
        list(iter_rows(str(tmp_path / "a.parquet")))


def test_a_parquet_file_that_is_cut_off_or_empty_is_refused(tmp_path: Path) -> None:
    path = Path(write_parquet(tmp_path / "a.parquet", GOOD))
    whole = path.read_bytes()
    for size in (4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="is damaged"):
            read_rows(str(path))
    pyarrow.parquet.write_table(pyarrow.table({"question": pyarrow.array([], pyarrow.string())}), path)
    with pytest.raises(ValueError, match="holds no rows"):
        read_rows(str(path))


def test_a_parquet_file_with_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    raw = pyarrow.array([b"caf\xe9"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"question": raw}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: holds text that is not UTF-8"):
        read_rows(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize("name", ["missing.jsonl", "missing.csv", "nul\0.jsonl"])
def test_a_missing_file_is_named_with_the_place_looked_in(name: str) -> None:
    with pytest.raises(ValueError, match=r"no such file .*absolute path"):
        load_math_rows(name)


def test_without_pyarrow_parquet_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path / "a.parquet", GOOD)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        read_rows(path)
    assert read_rows(write_jsonl(tmp_path / "a.jsonl", GOOD)) == [GOOD]


def test_a_converter_of_another_form_gets_file_and_row_into_its_errors(tmp_path: Path) -> None:
    def convert(row: dict) -> int:
        if row["n"] > 1:
            raise ValueError('field "n": is too large')
        return row["n"]

    assert list(convert_rows(write_jsonl(tmp_path / "a.jsonl", {"n": 0}, {"n": 1}), convert)) == [0, 1]
    with pytest.raises(ValueError, match=r'b\.jsonl, row 1 \(counted from 0\): field "n": is too large'):
        list(convert_rows(write_jsonl(tmp_path / "b.jsonl", {"n": 0}, {"n": 2}), convert))


def test_threads_share_one_copy_until_the_file_changes(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", GOOD, GOOD)
    made: list[str] = []

    def make(path: str) -> list[dict]:
        made.append(path)
        return read_rows(path)

    found: list[list[dict]] = []
    threads = [threading.Thread(target=lambda: found.append(once_per_file(path, make))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert all(rows is found[0] for rows in found)
    write_jsonl(tmp_path / "a.jsonl", GOOD)
    os.utime(path, ns=(1, 1))
    assert once_per_file(path, make) == [GOOD]
    assert len(made) == 2


def test_equal_rows_are_one_object(tmp_path: Path) -> None:
    rows = load_math_rows(write_jsonl(tmp_path / "a.jsonl", GOOD, {**GOOD, "question": "R"}, GOOD))
    assert rows[0] is rows[2] is not rows[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((None, None, "train", 1), "rows: got null; allowed: the name of a file"),
        (("a.jsonl", None, "train", 4), "horizon: got 4; .* one problem; pass horizon=1"),
        (("a.jsonl", -1, "all", 1), "row: got -1; allowed: a whole number from 0"),
        (("a.jsonl", True, "all", 1), "row: got true"),
        (("", 3, "all", 1), "row: got 3; allowed: null without rows"),
        (("a.jsonl", 3, "train", 1), r'split: got .train.; .* a chosen row .* pass split="all"'),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_row_options(*options)
    check_row_options("", None, "train", 4)
    check_row_options("a.jsonl", 3, "all", 1)
