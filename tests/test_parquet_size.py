"""Parquet files whose texts repeat: their size is told before they are expanded, in every form that keeps texts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from trm_agent.report.rows import groups_of
from trm_agent.trust_region.dump import FORMAT, VERSION, read_dump
from trm_envs.rows import iter_rows
from trm_fields import parquet_size
from trm_fields.parquet_size import _has_dictionary, grown_bytes

NUM, LENGTH = 400, 20_000
TEXT = "Q" * LENGTH


def repeated(num: int = NUM, text: str = TEXT) -> pyarrow.DictionaryArray:
    return pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * num, pyarrow.int32()), pyarrow.array([text]))


def in_a_list(values: pyarrow.Array) -> pyarrow.ListArray:
    return pyarrow.ListArray.from_arrays(pyarrow.array([0, len(values)], pyarrow.int32()), values)


def in_a_struct(values: pyarrow.Array) -> pyarrow.StructArray:
    return pyarrow.StructArray.from_arrays([values], ["content"])


def as_keys(values: pyarrow.Array) -> pyarrow.MapArray:
    return pyarrow.MapArray.from_arrays(pyarrow.array([0, len(values)], pyarrow.int32()), values, values)


FORMS: dict[str, Callable[[], pyarrow.Array]] = {
    "typed as a dictionary": repeated,
    "text": lambda: repeated().dictionary_decode(),
    "large text": lambda: repeated().dictionary_decode().cast(pyarrow.large_string()),
    "bytes": lambda: repeated().dictionary_decode().cast(pyarrow.binary()),
    "bytes of one length": lambda: pyarrow.array([TEXT.encode()] * NUM, pyarrow.binary(LENGTH)),
    "one row's list": lambda: in_a_list(repeated()),
    "one row's chat": lambda: in_a_list(in_a_struct(repeated())),
    "lists of lists": lambda: in_a_list(in_a_list(repeated())),
    "a struct": lambda: in_a_struct(repeated()),
    "a map": lambda: as_keys(repeated().dictionary_decode()),
    "JSON": lambda: pyarrow.array([json.dumps(TEXT)] * NUM, pyarrow.json_()),
}


def write(path: Path, columns: dict[str, pyarrow.Array], **options: Any) -> Path:
    options = {"compression": "zstd", "dictionary_pagesize_limit": 1 << 30, **options}
    pyarrow.parquet.write_table(pyarrow.table(columns), path, **options)
    return path


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_a_text_counts_as_often_as_rows_refer_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, stored: bool
) -> None:
    file = write(tmp_path / "a.parquet", {"x": FORMS[form]()}, store_schema=stored)
    assert file.stat().st_size < 10_000
    once = NUM * (LENGTH + 8) * (2 if form == "a map" else 1)
    # four bytes of a length, where a packing without a dictionary is read
    assert once - NUM * 8 <= grown_bytes(file) <= once + NUM * 8
    monkeypatch.setattr(parquet_size, "FREE_BYTES", 1 << 22)
    with pytest.raises(ValueError, match="holds more than 4 MiB when read, over 100 times its length"):
        next(iter_rows(str(file)))


@pytest.mark.parametrize("nested", [False, True])
def test_texts_that_share_beginnings_count_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nested: bool) -> None:
    texts = repeated().dictionary_decode()
    options = {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"}
    file = write(tmp_path / "a.parquet", {"x": in_a_list(texts) if nested else texts}, **options)
    assert file.stat().st_size < 10_000
    assert grown_bytes(file) >= NUM * LENGTH
    monkeypatch.setattr(parquet_size, "FREE_BYTES", 1 << 22)
    with pytest.raises(ValueError, match="holds more than 4 MiB when read"):
        next(iter_rows(str(file)))


def test_two_columns_of_one_name_both_count(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays([repeated(), repeated().dictionary_decode()], ["x", "x"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert grown_bytes(tmp_path / "a.parquet") >= 2 * NUM * LENGTH


def test_honest_files_are_read_and_counted_to_the_byte(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"x": "a", "chat": [{"role": "user", "content": "b"}], "tags": [], "of": {"y": ["c", None]}},
        {"x": None, "chat": [], "tags": None, "of": {"y": None}},
        {"x": "é" * 5, "chat": [{"role": "user", "content": "d" * 7}] * 2, "tags": [], "of": None},
    ]
    table = pyarrow.Table.from_pylist(rows)
    table = table.append_column("large", pyarrow.array(["l"] * 3, pyarrow.large_string()))
    table = table.append_column("typed", pyarrow.array(["t", None, "t"]).dictionary_encode())
    table = table.append_column("tagged", pyarrow.array([{"k": "v"}] * 3, pyarrow.map_(pyarrow.string(), "string")))
    file = write(tmp_path / "a.parquet", {name: table[name] for name in table.column_names}, row_group_size=2)
    assert list(iter_rows(str(file))) == table.to_pylist()
    contents = pyarrow.parquet.read_metadata(file)
    chunks = [
        contents.row_group(group).column(index)
        for group in range(contents.num_row_groups)
        for index in range(contents.num_columns)
        if contents.row_group(group).column(index).physical_type == "BYTE_ARRAY"
    ]
    # x: 1 and 10 bytes; roles: 3 of 4; contents: 1, 7, 7; y: 1; large: 3; typed: 2; tagged: 3 of 2
    texts = 11 + 12 + 15 + 1 + 3 + 2 + 6
    numbers = grown_bytes(file, []) - sum(max(c.total_uncompressed_size, 8 * c.num_values) for c in chunks)
    assert grown_bytes(file) == texts + numbers + sum(8 * chunk.num_values for chunk in chunks)


def test_a_dump_of_one_text_in_every_row_is_refused_and_foreign_columns_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = {
        "response_ids": pyarrow.array([[1]] * NUM, pyarrow.list_(pyarrow.int32())),
        "response_mask": pyarrow.array([[True]] * NUM),
        "step": pyarrow.array([0] * NUM),
        "reward": pyarrow.array([0.0] * NUM),
        "kl_lower": pyarrow.array([[0.0]] * NUM),
    }
    for name in ("log_probs", "rollout_log_probs", "advantages", "kl_upper", "tv_lower", "tv_upper"):
        lists[name] = lists["kl_lower"]
    header = {b"trm": json.dumps({"format": FORMAT, "version": VERSION, "settings": {}}).encode()}
    monkeypatch.setattr(parquet_size, "FREE_BYTES", 1 << 22)
    for text_column in ("task", "episode", "foreign"):
        table = pyarrow.table({**lists, text_column: repeated().dictionary_decode()}).replace_schema_metadata(header)
        file = tmp_path / f"{text_column}.parquet"
        pyarrow.parquet.write_table(table, file, compression="zstd", row_group_size=100)
        if text_column == "foreign":
            assert groups_of(file) == [None] * NUM
            assert "foreign" not in read_dump(file).table.column_names
        else:
            for read in (groups_of, read_dump):
                with pytest.raises(ValueError, match=r"bytes would grow to .* as in no dump"):
                    read(file)


def test_a_type_that_is_read_without_a_dictionary_is_known_before() -> None:
    text = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    kind = pyarrow.struct([("a", text), ("b", pyarrow.json_()), ("c", pyarrow.list_(text)), ("d", pyarrow.int8())])
    assert list(_has_dictionary(kind)) == [True, False, True, False]
