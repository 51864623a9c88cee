"""Printed output against the expected one, as LiveCodeBench's grader compares them."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trm_envs.scoring import same_output
from trm_envs.scoring.outputs import check_tolerance, stated_tolerance


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("1 2\n3", "1 2\n3\n", True),
        ("1   2  \n 3\n\n", "1 2\n3", True),
        ("\r\n1\r\n", "1\n", True),
        ("", "\n", True),
        ("1 2 3", "1 2\n3", False),
        ("1\n\n2", "1\n2", False),
        ("True", "true", False),
        ("12", "1 2", False),
        ("", "0", False),
        ("1\n2", "1", False),
        # a line that differs is compared as decimals
        ("5.0", "5", True),
        ("2.50", "2.5", True),
        ("1e3 -0.0", "1000 0", True),
        ("007", "7", True),
        ("50000000000000001", "50000000000000000", False),
        ("0.1", "0.10000000000000000001", False),
        ("1.4142135623730951", "1.41421356", False),
        ("yes 5.0", "yes 5", False),
        ("a  b", "a b", False),
        ("nan", "NaN", False),
        ("nan", "nan", True),
        ("snan", "1", False),
        ("1e999999999999999999999", "1", False),
        ("1e400", "1", False),
    ],
)
def test_outputs_are_compared_line_by_line(output: str, expected: str, same: bool) -> None:
    assert same_output(output, expected) is same
    assert same_output(expected, output) is same


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("1.4142135623730951", "1.41421356", True),
        ("1.0000009", "1", True),
        ("1.000001", "1", True),  # the bound itself
        ("1.0000011", "1", False),
        ("1000000.9", "1000000", True),  # relative: 0.9e-6
        ("1000001.1", "1000000", False),
        ("0.0000009", "0", True),  # absolute below 1
        ("0.0000011", "0", False),
        ("inf", "1", False),
        ("1", "inf", False),
        ("nan", "1", False),
        ("1e999999999", "1", False),
        ("yes 1.0000001", "yes 1", False),
        ("1 2", "1", False),
        ("abc", "1", False),
    ],
)
def test_a_tolerance_is_absolute_or_relative_to_the_expected_number(output: str, expected: str, same: bool) -> None:
    assert same_output(output, expected, 1e-6) is same


def test_a_tolerance_is_never_relative_to_what_was_printed() -> None:
    # 11 of 100 is more than a tenth, 11 of 111 less
    assert not same_output("111", "100", 0.1)
    assert same_output("110", "100", 0.1)


@given(st.lists(st.decimals(allow_nan=False, allow_infinity=False, places=6), min_size=1, max_size=5), st.data())
def test_equal_numbers_are_the_same_however_they_are_written(numbers: list[Decimal], data: st.DataObject) -> None:
    written = " ".join(data.draw(st.sampled_from([f"{number:f}", f"{number:e}", f"{number:f}0"])) for number in numbers)
    assert same_output(written, " ".join(map(str, numbers)))
    changed = [-numbers[0] or Decimal(1), *numbers[1:]]
    assert not same_output(" ".join(map(str, changed)), " ".join(map(str, numbers)))


@pytest.mark.parametrize(
    ("question", "tolerance"),
    [
        ("is correct if the absolute or relative error from the true answer is at most $10^{-6}$.", 1e-6),
        ("Your answer is accepted if its relative or absolute error does not exceed 10^-9.", 1e-9),
        ("an absolute error of up to 1e-4 is allowed", 1e-4),
        ("relative error less than $10^{\u22125}$", 1e-5),
        ("Print the answer modulo 10^9 + 7.", None),
        ("Find the relative order. The array has 10^{-1} rows", None),
        ("Minimise the absolute difference. There are at most 10^{6} numbers.", None),
        ("Print the sum.", None),
    ],
)
def test_the_error_that_a_problem_states_is_found(question: str, tolerance: float | None) -> None:
    assert stated_tolerance(question) == tolerance


@pytest.mark.parametrize("value", [0, -1e-6, 0.5, float("nan"), float("inf"), True, "1e-6", None, [1e-6]])
def test_a_tolerance_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r'field "tolerance": .*expected a number above 0'):
        check_tolerance("tolerance", value)


def test_long_outputs_take_no_time_that_matters() -> None:
    digits = "9" * 1_000_000
    assert same_output(f"{digits}.0", digits)
    many = " ".join(["1.0"] * 200_000)
    assert same_output(many, " ".join(["1"] * 200_000))
