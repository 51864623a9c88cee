"""What a policy may try against the scorer: text that is slow to read. See docs/scoring.md for verdicts."""

import time

import pytest

from trm_envs.scoring import extract_answer

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
