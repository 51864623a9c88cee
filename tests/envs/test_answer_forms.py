"""Forms of answers: which one a prompt asks for, and how it is written and read."""

import time

import pytest

from trm_envs.answer_forms import ANSWER_FORMS, asked_forms, own_form, read_answer, show_form, write_answer
from trm_envs.protocols import PROTOCOLS

HERMES, TAGS = PROTOCOLS["hermes"], PROTOCOLS["tags"]


@pytest.mark.parametrize("form", [form for form in ANSWER_FORMS if form != "box"])
@pytest.mark.parametrize("answer", ["34", "\\frac{1}{2}", "(1, 2)", "x = 3", "-0.5", "3, 5"])
def test_what_is_written_is_read_also_behind_a_thought(form: str, answer: str) -> None:
    text = write_answer(answer, form, HERMES)
    assert read_answer(text, form) == answer
    assert read_answer(f"<think>{write_answer('1', form, HERMES)}</think>So it is\n{text}\n", form) == answer
    assert read_answer(f"<think>{text}", form) is None
    assert read_answer("It is 34. \\boxed{34}", form) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: 3\nno,\nAnswer: 4", "4"),
        ("**Answer:** $34$", "$34$"),
        ("**Final Answer: 34**", "34"),
        ("# The answer: 34", "34"),
        ("answer : \\boxed{34}", "34"),
        ("Answer: $x=\\boxed{3}$ or $x=\\boxed{5}$", "$x=\\boxed{3}$ or $x=\\boxed{5}$"),
        # DAPO-Math: "put your answer on its own line after Answer:"
        ("Answer:\n\n34\n", "34"),
        ("Answer: 34\r\n", "34"),
        ("Answer:", None),
        ("The answers: 34", None),
        ("My answer is 34.", None),
        ("", None),
    ],
)
def test_the_last_line_that_says_answer_counts(text: str, answer: str | None) -> None:
    assert read_answer(text, "line") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [("2+3=5\n#### 5", "5"), ("#### 1\n#### 2", "2"), ("##### heading", None), ("so #### 5", None), ("####", None)],
)
def test_the_last_line_behind_four_hashes_counts(text: str, answer: str | None) -> None:
    assert read_answer(text, "hashes") == answer


@pytest.mark.parametrize(
    ("prompt", "forms"),
    [
        ("The last line of your response should be of the form Answer: $Answer (without quotes).", {"line"}),
        ('Remember to put your answer on its own line after "Answer:".', {"line"}),
        ("End with 'Answer: <number>'.", {"line"}),
        ("Please reason step by step, and put your final answer within \\boxed{}.", {"box"}),
        ("Present the answer in LaTeX format: \\boxed{Your answer}", {"box"}),
        ("Give the final answer in <answer> </answer> tags.", {"tag"}),
        ('Let\'s think step by step and output the final answer after "####".', {"hashes"}),
        # a problem with a blank, a question of a completion, plain words: nothing is asked for
        ("Fill in the blank: $5 + \\boxed{} = 12$.", set()),
        ("Question: what is 2+2?\nAnswer:", set()),
        ("What is the answer to 3 + 4?", set()),
        ("##### Part 1\nWhat is 2+2?", set()),
    ],
)
def test_what_a_prompt_asks_for_is_seen(prompt: str, forms: set[str]) -> None:
    assert asked_forms(prompt) == forms


def test_the_box_is_the_protocols_own_form() -> None:
    assert {
        name: own_form(protocol) for name, protocol in PROTOCOLS.items() if name in ("hermes", "fenced", "tags")
    } == {
        "hermes": "box",
        "fenced": "box",
        "tags": "tag",
    }
    assert write_answer("3", "box", TAGS) == "<answer>3</answer>"
    assert show_form("...", "line", HERMES) == 'a last line "Answer: ..."'
    assert show_form("...", "box", HERMES) == "\\boxed{...}"


@pytest.mark.parametrize("piece", ["Answer:", "answer ", "* ", "####", "\n", "<answer>", "line " * 9, "\\boxed{"])
def test_long_texts_take_no_time(piece: str) -> None:
    text = piece * (100_000 // len(piece))
    started = time.process_time()
    for form in ANSWER_FORMS[1:]:
        read_answer(text, form)
    asked_forms(text)
    assert time.process_time() - started < 2
