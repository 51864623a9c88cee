"""Fenced code, in the forms that models write and CommonMark allows."""

import pytest

from tests.envs.protocol_support import code_call, parse, write

FENCE = "```"


@pytest.mark.parametrize(
    "text",
    [
        '```python title="a.py"\nprint(1)\n```',
        "```{python}\nprint(1)\n```",
        "```python\r\nprint(1)\r\n```",
        "1. step\n   ```python\n   print(1)\n   ```",
        "```Python\nprint(1)\n```",
        "``` py\nprint(1)\n```",
        "```python3\nprint(1)\n```",
        "```python3.11\nprint(1)\n```",
        "```{.python .numberLines}\nprint(1)\n```",
        "```{python, echo=TRUE}\nprint(1)\n```",
        "```python:main.py\nprint(1)\n```",
        "```python \nprint(1)\n```   ",
        "````python\nprint(1)\n````",
        "```python\nprint(1)\n`````",
        "~~~python\nprint(1)\n~~~",
        "~~~~ python `x`\nprint(1)\n~~~~~~",
        "- a\n  - b\n\n    ```python\n    print(1)\n    ```\n",
        "1. ```python\n   print(1)\n   ```",
        "- ```python\r\n  print(1)\r\n  ```\r\n",
        "\t```python\n\tprint(1)\n\t```",
        "\t```python\n    print(1)\n\t```",
        "  ```python\nprint(1)\n```",
        "```python\nprint(1)\n   ```",
        "<think>hm</think>```python\nprint(1)\n```",
        "So.\n```python\nprint(1)\n```\nThen `x` and ```y```.",
    ],
)
def test_a_block_of_python_is_one_call(text: str) -> None:
    turn = parse("fenced", text)
    assert (turn.calls, turn.malformed) == ((code_call("print(1)"),), None)


@pytest.mark.parametrize(
    "text",
    [
        "```json\nprint(1)\n```",
        "```\nprint(1)\n```",
        "```pycon\n>>> print(1)\n```",
        "```python-repl\n>>> print(1)\n```",
        "```pythonic\nprint(1)\n```",
        "> ```python\n> print(1)\n> ```",
        "```python print(1)```",
        "Write ```python\nprint(1)\nhere",
        "``python\nprint(1)\n``",
        "````markdown\n```python\nprint(1)\n```\n````",
        "~~~text\n```python\nprint(1)\n```\n~~~",
        "```markdown\n- a\n\n    ```python\n    print(1)\n    ```\n```",
    ],
)
def test_other_blocks_and_quotes_are_text(text: str) -> None:
    turn = parse("fenced", text + "\n\\boxed{3}")
    assert (turn.calls, turn.malformed, turn.answer) == ((), None, "3")


def test_a_box_in_a_block_of_another_language_is_said_aloud() -> None:
    assert parse("fenced", "The answer:\n```latex\n\\boxed{5}\n```").answer == "5"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nif x:\n    y\n```", "if x:\n    y"),
        ("  ```python\n  if x:\n      y\n\n  z\n  ```", "if x:\n    y\n\nz"),
        ("```python\na\n\n\n```", "a\n\n"),
        ("```python\n\n```", ""),
        ("```python\n```", ""),
        ("```python\n'''\n    ```\n'''\n```", "'''\n    ```\n'''"),
        ("````python\n```\nx\n```\n````", "```\nx\n```"),
        ("```python\n~~~\n```", "~~~"),
        ("```python\n``\n```bash\n```", "``\n```bash"),
        ("```python\r\na = 'b'\r\n\r\nc\r\n```", "a = 'b'\n\nc"),
        ("\t```python\n\tif x:\n\t\ty\n\t```", "if x:\n\ty"),
    ],
)
def test_the_code_is_what_stands_between_the_fences(text: str, code: str) -> None:
    assert parse("fenced", text).calls == (code_call(code),)


@pytest.mark.parametrize(
    "text", ["```python\nx", "```python", "````python\nx\n```", "~~~py\nx\n```", "```python\nx\n``` y"]
)
def test_a_block_without_an_end_is_malformed(text: str) -> None:
    turn = parse("fenced", text)
    assert "is not closed" in (turn.malformed or "")


def test_a_closed_block_of_text_hides_no_code_behind_it() -> None:
    text = "```json\n{}\n```\n```python\na\n```\n```\nout\n```\n~~~py\nb\n~~~"
    assert parse("fenced", text).calls == (code_call("a"), code_call("b"))


def test_a_longer_fence_is_written_where_the_code_holds_one() -> None:
    assert write("fenced", "python", code="x").startswith("```python\n")
    assert write("fenced", "python", code="'''\n```\n'''").startswith("````python\n")
    assert write("fenced", "python", code="'''\n  ````` \n'''").startswith("``````python\n")
    assert write("fenced", "python", code="print('```')\n~~~~~\n    ```x").startswith("```python\n")
