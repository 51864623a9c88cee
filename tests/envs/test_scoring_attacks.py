"""Attempts of a policy against the scorer: text that is slow to read. See docs/scoring.md for verdicts."""

import time

import pytest

from trm_envs.scoring import extract_answer
from trm_envs.scoring.spelling import trim_end

GAPS = [" ", "a ", "x=", "\\ ", "x_{a}=", "\\alpha ", "\\text{ and ", "\\text{" + " " * 40, "and ", "$", "\\text{,"]


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("end", ["", "!", "\\text{" + " " * 50_000])
def test_what_stands_between_boxes_is_read_in_linear_time(gap: str, end: str) -> None:
    text = f"\\boxed{{3}}{gap * (50_000 // len(gap))}{end}\\boxed{{5}}"
    before_s = time.process_time()
    extract_answer(text * 3)
    assert time.process_time() - before_s < 0.5


def test_a_short_gap_joins_boxes() -> None:
    assert extract_answer("\\boxed{3}\\text{ , and , }\\boxed{5}").answer == "3, 5"
    assert extract_answer("\\boxed{3}" + " " * 1000 + "\\boxed{5}").answer == "5"


@pytest.mark.parametrize("ending", ["~", ",", "; ", r"\,", r"\; ", ".,", r"\quad", r"\quad~", "\\\\ ", "\\\\"])
def test_endings_are_cut_off_in_linear_time(ending: str) -> None:
    text = "7" + ending * (300_000 // len(ending))
    before_s = time.process_time()
    assert trim_end(text) == "7"
    assert time.process_time() - before_s < 0.5


@pytest.mark.parametrize(
    ("text", "trimmed"),
    [
        (r"73\ ", "73"),
        ("(1,4).", "(1,4)"),
        ("5,", "5"),
        ("5\\\\", "5"),
        (r"5\quad\!.", "5"),
        ("0.3...", "0.3..."),
        ("0.3..~,", "0.3.."),
        (r"\left(2\right.", r"\left(2\right."),
        (r"x\\\,", "x"),
        ("x\\\\\\", "x\\\\\\"),
        (r"a\.", r"a\."),
        (r"\alpha", r"\alpha"),
        ("", ""),
        (" ~,", ""),
    ],
)
def test_an_ending_is_what_ends_a_sentence_or_a_line(text: str, trimmed: str) -> None:
    assert trim_end(text) == trimmed
