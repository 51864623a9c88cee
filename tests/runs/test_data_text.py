"""Stored JSON and YAML within bounds."""

import json
import os
from pathlib import Path

import pytest

from trm_agent.runs.data_text import MAX_DEPTH, MAX_DIGITS, check_files, json_lines, printable, read_json, read_yaml


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_what_json_says_is_read() -> None:
    value = {"a": [1, -2.5, None, True, "ü \u2028 </script>"], "b": {"c": 10 ** (MAX_DIGITS - 1)}}
    assert read_json(json.dumps(value)) == value
    assert read_json(json.dumps(value).encode()) == value
    assert read_json(nested(MAX_DEPTH)) == read_yaml(nested(MAX_DEPTH))
    # not nested: many lists side by side
    assert len(read_json(json.dumps([[]] * 1000))) == 1000


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (nested(MAX_DEPTH + 2), "nested more than 100 levels deep"),
        (nested(100_000), "nested more than 100 levels deep"),
        ('{"a":' * 200 + "1" + "}" * 200, "nested more than 100 levels deep"),
        ("1" * (MAX_DIGITS + 1), "an integer of 301 digits, at most 300 are read"),
        ("-" + "1" * 5000, "an integer of 5001 digits"),
        ("{", "not JSON: Expecting"),
        ("", "not JSON: Expecting"),
    ],
)
def test_json_out_of_bounds_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_json(text)


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_not_finite_are_refused_where_asked(name: str) -> None:
    assert isinstance(read_json(f"[{name}]")[0], float)
    with pytest.raises(ValueError, match=f"{name} is not a number of JSON"):
        read_json(f"[{name}]", finite=True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (nested(MAX_DEPTH + 2), "nested more than"),
        # these end the process in the loader of libyaml
        (nested(100_000), "nested more than"),
        ("- " * 100_000 + "x", "nested more than"),
        ("a: 1" + "0" * 400, "more than 300 digits"),
        ("a: 1" + "0" * 5000, "digits"),
        ("a: 2001-99-99", "month must be"),
        ("a: !!python/object/apply:os.system [echo]", "could not determine a constructor"),
        ("? [a]\n: b", "constructing a mapping"),
        ("a: \x07", "control characters"),
        ("a: [", "while parsing"),
    ],
)
def test_yaml_out_of_bounds_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_yaml(text)


def test_a_few_lines_of_yaml_that_mean_billions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trm_agent.runs.data_text.MAX_VALUES", 10_000)
    lines = ["a: &a0 [x, x]", *(f"b{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))]
    assert read_yaml("\n".join(lines[:3]))["b2"][8][0] == ["x", "x"]
    with pytest.raises(ValueError, match="more than 10,000 values"):
        read_yaml("\n".join(lines))


def test_lines_are_read_one_by_one_and_a_cut_end_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"a": 1}\n\n[]\n\xff\n' + nested(5000).encode() + b'\n{"a": 2}\n{"a"')
    found = list(json_lines(file))
    assert [(number, row) for number, row, reason in found if not reason] == [(1, {"a": 1}), (6, {"a": 2})]
    assert [(number, reason[:9]) for number, _, reason in found if reason] == [
        (3, "a list, n"),
        (4, "'utf-8' c"),
        (5, "nested mo"),
    ]


def test_a_pipe_or_a_link_to_a_device_in_a_folder_is_refused_and_a_link_to_a_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("x")
    (tmp_path / "a" / "link").symlink_to("file")
    (tmp_path / "a" / "gone").symlink_to("nowhere")
    check_files(tmp_path)
    (tmp_path / "a" / "zero").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="a/zero: neither a file nor a folder"):
        check_files(tmp_path)
    (tmp_path / "a" / "zero").unlink()
    os.mkfifo(tmp_path / "a" / "pipe")
    with pytest.raises(ValueError, match="a/pipe: neither a file nor a folder"):
        check_files(tmp_path)


def test_what_would_control_a_terminal_is_written_as_an_escape() -> None:
    assert printable("\x1b]0;x\x07 é 你 \u202e \ud800 a\tb\n") == "\\x1b]0;x\\x07 é 你 \\u202e \\ud800 a\tb\n"
