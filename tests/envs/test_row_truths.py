"""Truths of a file: what is an answer, which can be scored, and that finding out is done once."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import gymnasium
import pyarrow
import pyarrow.parquet
import pytest

from tests.envs.row_support import write
from trm_envs.rows import load_math_problems, load_math_rows, math_row
from trm_envs.rows import verdicts as verdicts_module
from trm_envs.rows.problems import UnscorableRow


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRM_AGENT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rows"


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The truths that are checked."""
    found: list[str] = []
    check = verdicts_module.check_truths

    def spy(truths: list[str]) -> list[str]:
        found.extend(truths)
        return check(truths)

    monkeypatch.setattr(verdicts_module, "check_truths", spy)
    return found


def truth_of(value: Any, field: str = "answer") -> str:
    return math_row({"question": "Q", field: value}).answer


# truth, an equal answer that is written differently
HARD_TRUTHS = [
    ("4-\\mathrm{i}", "4-i"),
    ("\\frac \\pi4 + 2 - \\sqrt2", "2-\\sqrt{2}+\\frac{\\pi}{4}"),
    ("\\{x|-2\\leq x<1\\}", "[-2, 1)"),
    ("\\lg 2", "\\log_{10} 2"),
    ("The answer is 42.", "42"),
    ("some working ... #### 5 (in one line)", "5"),
    # siblings
    ("the value of x is 3", "3"),
    ("about 7 or so", "7"),
    ("answer 3", "3"),
    ("3+2\\mathrm{i}", "2i+3"),
    ("2 + \\sqrt 3 - \\frac \\pi 6", "2+\\sqrt{3}-\\frac{\\pi}{6}"),
    ("\\ln 3", "\\log_e 3"),
    ("x = 4 #### 4 apples and pears", "4"),
]


@pytest.mark.parametrize(("truth", "equal"), HARD_TRUTHS)
def test_a_hard_truth_is_refused_with_its_row_or_an_equal_answer_is_right(
    tmp_path: Path, truth: str, equal: str
) -> None:
    path = write(tmp_path / "rows.jsonl", "1", truth)
    try:
        load_math_rows(path)
    except ValueError as error:
        refusal = str(error)
    else:
        env = gymnasium.make("trm/PythonMath-v0", rows=path, row=1, split="all", horizon=1)
        env.reset(seed=0)
        assert env.step(f"\\boxed{{{equal}}}")[1] == 1.0
        return
    assert "rows.jsonl, row 1 (counted from 0)" in refusal
    assert 'unscorable="drop"' in refusal


def test_all_rows_that_cannot_be_scored_stand_in_one_message(tmp_path: Path) -> None:
    bad = ["The answer is 1.", "the 2nd", "\\boxed{}", "\\frac{1}{2", "a\nb", "it is 9 or so", ""]
    path = write(tmp_path / "rows.jsonl", *(text for one in bad for text in (one, str(len(one)))))
    with pytest.raises(ValueError, match="7 of 14 rows, cannot be scored") as caught:
        load_math_rows(path)
    message = str(caught.value)
    for number in (0, 2, 4, 6, 8):
        assert f'row {number}: field "answer"' in message
    assert "row 10" not in message
    assert "and 2 more" in message
    problems = load_math_problems(path, unscorable="drop")
    assert problems.numbers == (1, 3, 5, 7, 9, 11, 13)
    assert problems.told == "14 rows, 7 problems (7 of the rows left out: they cannot be scored)"
    with pytest.raises(ValueError, match=r"row: got 2, .*left out; .*; pass another"):
        problems.at(2)
    with pytest.raises(ValueError, match="none would be left"):
        load_math_problems(write(tmp_path / "none.jsonl", "answer 12", "as in 4 above"), unscorable="drop")


@pytest.mark.parametrize(
    ("solution", "truth"),
    [
        ("so \\boxed{2} and \\boxed{-2}", "2, -2"),
        ("$x=\\boxed{3}$ or $x=\\boxed{5}$", "3, 5"),
        ("$x_1 = \\boxed{3}, x_2 = \\boxed{5}$.", "3, 5"),
        ("\\boxed{6}, \\boxed{6} and \\boxed{7}", "6, 6, 7"),
        ("\\boxed{1}\\text{ or }\\fbox{4}", "1, 4"),
        # the same answer twice is not a list
        ("We get \\boxed{5}.\nHence the answer is \\boxed{5}.", "5"),
        ("<think>\\boxed{1}?</think> It is \\boxed{2}.", "2"),
        ("nested \\boxed{\\fbox{7}}", "\\fbox{7}"),
        # which one is the answer, or what is whose, cannot be told
        ("First \\boxed{3}. Then, adding 4, \\boxed{7}.", None),
        ("$x=\\boxed{3}$ and $y=\\boxed{5}$", None),
        ("\\boxed{3}\nCheck: \\boxed{4}", None),
        ("\\boxed{} or \\boxed{3}", None),
    ],
)
def test_several_boxes_are_a_list_or_refused(solution: str, truth: str | None) -> None:
    if truth is None:
        with pytest.raises(UnscorableRow, match=r'field "solution": .*cannot be scored'):
            truth_of(solution, "solution")
    else:
        assert truth_of(solution, "solution") == truth


@pytest.mark.parametrize(
    ("row", "truth"),
    [
        ({"answer": " 42 \r\n"}, "42"),
        ({"answer": 7}, "7"),
        ({"answer": 0.25}, "0.25"),
        ({"answer": Decimal("2.50")}, "2.50"),
        ({"answer": "\\boxed{\\frac{1}{2}}"}, "\\frac{1}{2}"),
        ({"answer": "<answer>12</answer>"}, "12"),
        # GSM8K
        ({"answer": "She has 3*4=12.\n#### 1,012"}, "1,012"),
        ({"answer": "#### 3\n#### -4"}, "-4"),
        # objects and lists that are written as JSON text
        ({"reward_model": '{"ground_truth": "9", "style": "rule"}'}, "9"),
        ({"reward_model": {"ground_truth": '["\\\\frac{1}{3}"]'}}, "\\frac{1}{3}"),
        ({"reward_model": {"ground_truth": None}, "answer": "5"}, "5"),
        ({"reward_model": "not JSON", "answer": "5"}, "5"),
    ],
)
def test_truths_are_found_in_the_forms_that_files_have(row: dict, truth: str) -> None:
    assert math_row({"question": "Q", **row}).answer == truth


@pytest.mark.parametrize("value", [["1", "2"], {"a": 1}, True, '["1", "2"]', "a\nb", b"1", "#### five", "x #### "])
def test_what_is_no_single_answer_is_refused(value: Any) -> None:
    with pytest.raises(UnscorableRow, match='field "answer": '):
        truth_of(value)


def test_arrays_and_decimals_of_a_parquet_file_are_read(tmp_path: Path) -> None:
    table = pyarrow.table(
        {
            "prompt": [[{"role": "user", "content": "Q"}], [{"role": "user", "content": "R"}]],
            "reward_model": [{"ground_truth": "1"}, {"ground_truth": "2"}],
            "tolerance": pyarrow.array([None, Decimal("0.01")], pyarrow.decimal128(5, 2)),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    first, second = load_math_rows(str(tmp_path / "rows.parquet"))
    assert [(row.question, row.answer, row.tolerance) for row in (first, second)] == [
        ("Q", "1", None),
        ("R", "2", 0.01),
    ]


def test_a_tolerance_is_the_rows_own(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", "2.50", tolerance=0.01)
    env = gymnasium.make("trm/PythonMath-v0", rows=path, row=0, split="all", horizon=1)
    for answer, reward in (("2.5", 1.0), ("2.509", 1.0), ("2.52", 0.0)):
        env.reset(seed=0)
        assert env.step(f"\\boxed{{{answer}}}")[1] == reward
    for value in (-1, "0.1", True, float("inf")):
        with pytest.raises(ValueError, match=r'field "tolerance": .*at least 0'):
            math_row({"question": "Q", "answer": "1.5", "tolerance": value})


def test_a_second_load_checks_nothing(tmp_path: Path, cache: Path, checked: list[str]) -> None:
    truths = ["1", "x^2+1", "1", "\\frac{3}{4}", "The answer is 3."]
    path = write(tmp_path / "rows.jsonl", *truths)
    load_math_problems(path, unscorable="drop")
    assert sorted(checked) == sorted({*truths})
    # another name, another place and another reading of the same content
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(Path(path).read_bytes())
    checked.clear()
    assert load_math_problems(str(copy), unscorable="drop", form="box").num_dropped == 1
    with pytest.raises(ValueError, match=r"row 4 .*cannot be scored"):
        load_math_problems(str(copy))
    assert checked == []
    # other content is checked by itself
    write(tmp_path / "copy.jsonl", *truths[:3])
    load_math_problems(str(copy))
    assert sorted(checked) == ["1", "x^2+1"]
    assert len(list(cache.glob("*.json"))) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b'"x": ""', b'"x": "bad"'),
        lambda data: b"[1]",
        lambda data: b"[" * 100_000,
        lambda data: b"\xff\xfe",
    ],
)
def test_damaged_checks_are_made_again(tmp_path: Path, cache: Path, checked: list[str], damage: Any) -> None:
    load_math_problems(write(tmp_path / "a.jsonl", "x", "2"))
    (kept,) = cache.glob("*.json")
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))
    checked.clear()
    load_math_problems(write(tmp_path / "b.jsonl", "x", "2"))
    assert sorted(checked) == ["2", "x"]
    assert json.loads(kept.read_bytes()) == json.loads(whole)


def test_another_scorer_checks_again(tmp_path: Path, checked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    load_math_problems(write(tmp_path / "a.jsonl", "7"))
    monkeypatch.setattr(verdicts_module, "SCORER_VERSION", "other")
    load_math_problems(write(tmp_path / "b.jsonl", "7"))
    assert checked == ["7", "7"]


def test_what_a_busy_machine_says_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts_module, "check_truths", lambda truths: ["no reply within 5 s"] * len(truths))
    with pytest.raises(ValueError, match="no reply within"):
        load_math_problems(write(tmp_path / "a.jsonl", "7"))
    monkeypatch.undo()
    assert len(load_math_problems(write(tmp_path / "b.jsonl", "7")).rows) == 1


def test_a_folder_that_cannot_be_written_to_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRM_AGENT_CACHE", str(tmp_path / "file"))
    assert load_math_rows(write(tmp_path / "rows.jsonl", "1"))[0].answer == "1"
    assert "cannot be kept" in caplog.text
    assert "set TRM_AGENT_CACHE to a folder that can be written to" in caplog.text


def test_the_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRM_AGENT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    load_math_rows(write(tmp_path / "a.jsonl", "1"))
    assert list((tmp_path / "xdg" / "trm-agent" / "rows").glob("*.json"))
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    load_math_rows(write(tmp_path / "b.jsonl", "2"))
    assert list((tmp_path / "home" / ".cache" / "trm-agent" / "rows").glob("*.json"))


def test_a_long_check_says_how_far_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdicts_module, "SAY_EVERY_S", 0.0)
    load_math_rows(write(tmp_path / "rows.jsonl", *range(1200)))
    assert "rows.jsonl: 500 of 1200 answers checked" in capsys.readouterr().err
