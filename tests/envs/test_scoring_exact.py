"""Extraction of the final answer, and numbers compared as exact rationals."""

import random
import time
from fractions import Fraction

import pytest

from trm_envs.scoring import Quantity, compare_exact, extract_answer, parse_quantity


@pytest.mark.parametrize(
    ("text", "answer", "source"),
    [
        ("first \\boxed{1}, no: \\boxed{ 2 }.", "2", "box"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}", "box"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}", "box"),
        # an escaped brace has no partner and does not open a group
        ("\\boxed{\\left\\{ x \\right.}", "\\left\\{ x \\right.", "box"),
        ("\\boxed{\\boxed{5}}", "5", "box"),
        ("\\boxed {5} and \\fbox{6}", "5, 6", "box"),
        ("<answer>7</answer> \\boxed{5} <answer>6</answer>", "5", "box"),
        ("<answer>7</answer> <answer> 6 </answer>", "6", "tag"),
        ("<think>\\boxed{1}</think> \\boxed{2}", "2", "box"),
        ("\\boxed{1}</think> I do not know", None, "none"),
        ("<think> \\boxed{1}", None, "none"),
        # the last box counts, also where it is empty or cut off
        ("\\boxed{1} and \\boxed{2", None, "none"),
        ("\\boxed{1} and \\boxed{}", None, "none"),
        ("<answer>7</answer> so \\boxed{2", None, "none"),
        ("<answer>7", None, "none"),
        ("<answer> </answer>", None, "none"),
        ("the answer is 5", None, "none"),
        ("boxed{5}", None, "none"),
        ("", None, "none"),
    ],
)
def test_the_last_box_is_the_answer_then_the_last_tag(text: str, answer: str | None, source: str) -> None:
    assert (extract_answer(text).answer, extract_answer(text).source) == (answer, source)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", Fraction(42)),
        (" +042. ", Fraction(42)),
        ("-0", Fraction(0)),
        ("\u22125", Fraction(-5)),
        ("--5", Fraction(5)),
        (".5", Fraction(1, 2)),
        ("1,234,567.5", Fraction(2469135, 2)),
        ("1{,}000", Fraction(1000)),
        ("1\\,000", Fraction(1000)),
        ("1 000 000", Fraction(10**6)),
        ("$ 3 / 4 $", Fraction(3, 4)),
        ("\\(3\\)", Fraction(3)),
        ("\\frac{3}{4}", Fraction(3, 4)),
        ("\\dfrac { 3 } { 4 }", Fraction(3, 4)),
        ("\\frac34", Fraction(3, 4)),
        ("\\frac3{40}", Fraction(3, 40)),
        ("-\\frac{-3}{4}", Fraction(3, 4)),
        ("\\frac{1.5}{-2}", Fraction(-3, 4)),
        ("\\frac{\\frac{1}{2}}{3}", Fraction(1, 6)),
        ("-3\\frac{1}{2}", Fraction(-7, 2)),
        ("3 1/2", Fraction(7, 2)),
        ("31/2", Fraction(31, 2)),
        ("1.5 \\times 10^{-3}", Fraction(3, 2000)),
        ("1e-9", Fraction(1, 10**9)),
        ("0.\\overline{3}", Fraction(1, 3)),
        ("-2.1\\overline{6}", Fraction(-13, 6)),
        (".\\overline{09}", Fraction(1, 11)),
        ("2^{-99}", Fraction(1, 2**99)),
        ("-2^2", Fraction(-4)),
        ("(-2)^{2}", Fraction(4)),
        ("3/2^{2}", Fraction(3, 4)),
        ("\\$1,250.50", Fraction(2501, 2)),
        ("5\u00b2", Fraction(25)),
    ],
)
def test_a_number_is_read_exactly(text: str, value: Fraction) -> None:
    quantity = parse_quantity(text)
    assert quantity is not None
    assert quantity.value == value


@pytest.mark.parametrize(
    "text",
    [
        *("", "-", "x", "inf", "nan", "\\infty", "0.3...", "1.2.3", "1/0", "\\frac{1}{0}", "0^{0}", "\\frac{1}"),
        # lists, pairs and intervals, also those that look like thousands
        *("1, 234", "(1,234)", "(1,2)", "\\left(1,000\\right)", "[1,2]", "\\{1,2\\}", "{1,2}", "1,2", "12,34", "0,500"),
        *("5 \\text{ or } 6", "2+3", "2\\frac{3}{2}", "\\frac{1}{2}3", "\\sqrt{4}", "2\\pi", "5^{\\circ}x", "1=1"),
        # words that change the number, or that may be variables
        *("5 million", "5\\text{ million}", "5 dozen", "5m", "5 x", "5i", "5 e", "\\$5 million"),
        # digits of other scripts, values too large to write down
        *("\u0663", "2^{9999999}", "9^{9^{9}}", "1e999999999", "9" * 5000, "{" * 900 + "1" + "}" * 900),
    ],
)
def test_anything_but_one_number_is_not_guessed(text: str) -> None:
    assert parse_quantity(text) is None


@pytest.mark.parametrize(
    ("answer", "truth", "is_equal"),
    [
        ("0.5", "\\frac{1}{2}", True),
        # a float would call these equal
        ("0.1000000000000000055", "0.1", False),
        ("9007199254740993", "9007199254740992", False),
        ("1e-9", "0", False),
        ("2^{-99}", "2^{-98}", False),
        ("0.333", "\\frac{1}{3}", False),
        ("1,000", "1000", True),
        ("5\\text{ cm}", "5", True),
        ("5", "5 cm", True),
        ("5 cm", "5\\mathrm{m}", False),
        ("500\\,\\text{cm}", "5\\text{ m}", True),
        ("16\\text{ cm}^2", "16 square cm", True),
        ("16\\text{ cm}^2", "16 cm", False),
        ("90^\\circ", "90", True),
        ("90^{\\circ}", "90 cm", False),
        ("120 minutes", "2 hours", True),
        ("\\$0.50", "50 cents", True),
        ("50\\%", "0.5", True),
        ("50\\%", "50", True),
        ("50", "50\\%", True),
        ("50 \\%", "5", False),
        ("\\frac12\\%", "0.5%", True),
        ("12", "1,2", None),
        ("x", "5", None),
    ],
)
def test_two_numbers_are_compared_as_rationals(answer: str, truth: str, is_equal: bool | None) -> None:
    assert compare_exact(answer, truth) is is_equal


@pytest.mark.parametrize("piece", ["\\boxed{", "\\boxed{1}", "{", "}", "\\", "<answer>", "<think>", "\\boxed ", "9"])
def test_a_megabyte_is_searched_in_bounded_time(piece: str) -> None:
    text = piece * (2**20 // len(piece))
    start = time.process_time()
    extract_answer(text)
    extract_answer("\\boxed{" + text)
    parse_quantity(text)
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize("piece", ["1,", "1 ", "(", "{", "1^", "\\frac", "\\frac{1}", "-", "1/", "a ", "\\text{", "0"])
def test_the_longest_number_is_read_in_bounded_time(piece: str) -> None:
    start = time.process_time()
    for end in ("", "!", "1", "}"):
        parse_quantity((piece * 1000)[:999] + end)
    assert time.process_time() - start < 1.0


def test_random_texts_neither_raise_nor_become_other_numbers() -> None:
    rng = random.Random(0)
    pieces = [
        *"0123456789",
        *".,+-/^{}() $%",
        "\\frac",
        "\\frac{",
        "\\text{",
        " cm",
        "\\boxed{",
        "e",
        "\\times 10",
        "°",
    ]
    num_read = 0
    for _ in range(5000):
        text = "".join(rng.choices(pieces, k=rng.randint(1, 8)))
        extract_answer(text)
        quantity = parse_quantity(text)
        if quantity is not None:
            num_read += 1
            # written out as a fraction, with the sign moved and a space added, it is the same number
            value = -quantity.value
            assert parse_quantity(f"-\\frac {{{value.numerator}}}{{{value.denominator}}}") == Quantity(quantity.value)
    assert num_read > 300
