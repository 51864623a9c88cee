"""Problems of a file: equal ones are one, and prompts and options agree on the form of answers."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from trm_envs.rows import Problems, load_math_problems


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRM_AGENT_CACHE", str(tmp_path / "cache"))


def grouped(tmp_path: Path, *pairs: tuple[str, Any], **options: Any) -> Problems:
    rows = [{"question": question, "answer": answer} for question, answer in pairs]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.utime(tmp_path / "rows.jsonl", ns=(len(rows), len(rows)))
    return load_math_problems(str(tmp_path / "rows.jsonl"), **options)


def test_one_question_with_equal_truths_is_one_problem(tmp_path: Path) -> None:
    same = [("A?", "1/2"), ("A? ", "0.5"), ("A?\n", "\\frac{1}{2}"), ("B?", 1), (" A?", " 1/2"), ("b?", 1)]
    assert grouped(tmp_path, *same).numbers == (0, 3, 5)


def test_one_question_with_two_truths_names_both_rows(tmp_path: Path) -> None:
    pairs = [("A?", 1), ("B?", 2), ("A?", 1), ("A? ", 3), ("C?", 4)]
    message = r"3 of 5 rows.*\n  row 0: rows 0 and 3 ask the same and have different answers, '1' and '3'"
    with pytest.raises(ValueError, match=message):
        grouped(tmp_path, *pairs)
    assert grouped(tmp_path, *pairs, unscorable="drop").numbers == (1, 4)


def test_drawing_is_uniform_over_problems(tmp_path: Path) -> None:
    # A has 90 of 93 rows, and each of the four problems a quarter of the draws: 400 +- 3.5 * sqrt(300) = 339 to 461
    problems = grouped(tmp_path, *[("A?", 1)] * 90, ("B?", 2), ("C?", 3), ("D?", 4))
    env = gymnasium.make("trm/PythonMath-v0", rows=problems.path, split="all", horizon=1)
    drawn = [env.reset(seed=seed)[0] for seed in range(1600)]
    assert all(339 < drawn.count(question) < 461 for question in ("A?", "B?", "C?", "D?"))


def test_a_byte_order_mark_and_windows_lines_make_no_other_problems(tmp_path: Path) -> None:
    plain = grouped(tmp_path, ("A?\nB?", "1"), ("C?", "2"))
    (tmp_path / "windows.jsonl").write_bytes(
        b'\xef\xbb\xbf{"question": "A?\\r\\nB?", "answer": "1"}\r\n{"question": "C?", "answer": " 2"}\r\n'
    )
    assert load_math_problems(str(tmp_path / "windows.jsonl")).hash == plain.hash


DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{}\n\n"
    'Remember to put your answer on its own line after "Answer:".'
)
ASKS = {
    "line": DAPO,
    "box": "{} Please reason step by step, and put your final answer within \\boxed{{}}.",
    "tag": "{} Write the final answer between <answer> and </answer>.",
    "hashes": '{} Let\'s think step by step and output the final answer after "####".',
}


@pytest.mark.parametrize("asked", ASKS)
@pytest.mark.parametrize("form", ["box", "tag", "line", "hashes"])
@pytest.mark.parametrize("protocol", ["hermes", "fenced", "tags"])
def test_prompts_and_option_agree_or_the_file_is_refused(tmp_path: Path, asked: str, form: str, protocol: str) -> None:
    rows = [{"question": ASKS[asked].format(f"{n}+1?"), "answer": n + 1} for n in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"rows": str(tmp_path / "rows.jsonl"), "split": "all", "horizon": 1, "protocol": protocol}
    env = gymnasium.make("trm/PythonMath-v0", **options, answer_form=form)
    read = "tag" if (form, protocol) == ("box", "tags") else form
    if read != asked:
        with pytest.raises(ValueError, match=rf'rows\.jsonl, row 0 .*set answer_form="{asked}"'):
            env.reset(seed=0)
        return
    env.reset(seed=0)
    inner = env.unwrapped
    shown = {"box": "\\boxed{...}", "tag": "<answer>...</answer>", "line": '"Answer: ..."', "hashes": '"#### ..."'}
    # no other form is told anywhere
    assert {name for name, text in shown.items() if text in inner.system_prompt} == {read}
    others = {"box": "\\boxed{0}", "tag": "<answer>0</answer>", "line": "Answer: 0", "hashes": "#### 0"}
    for name, text in others.items():
        if name != read:
            observation, _, terminated, _, info = env.step(text)
            assert (terminated, info["role"]) == (False, "user")
            assert shown[read] in observation
    assert env.step(f"It is\n{inner.solution()}")[1:4] == (1.0, True, False)


def test_lines_that_all_questions_share_are_not_asked_in_a_chain(tmp_path: Path) -> None:
    rows = [{"question": DAPO.format(f"What is {n} + 1?"), "answer": n + 1} for n in range(9)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    env = gymnasium.make("trm/ComposedMath-v0", rows=str(tmp_path / "rows.jsonl"), split="all", horizon=3)
    told, _ = env.reset(seed=0)
    assert "Answer:" not in told
    assert env.step(env.unwrapped.solution())[1] == 1.0


def test_a_few_problems_that_speak_of_another_form_are_only_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "trm_envs")
    pairs = [(f"{n}?", n) for n in range(11)]
    grouped(tmp_path, *pairs, ("Which tag, <answer> or <b>?", 3), form="box")
    assert "1 of 12 rows ask for another form than 'box'" in caplog.text
