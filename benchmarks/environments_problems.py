"""Problems that both sides of `benchmarks.environments` are given: the same questions, tests and turns."""

import json
import random
from pathlib import Path
from typing import Any

import gymnasium

import trm_envs  # noqa: F401

MATH_HORIZON = 4
NUM_TESTS, NUM_VISIBLE = 8, 2


def fenced(code: str) -> str:
    """Code as a turn that both sides take for a call of their Python tool."""
    return f"```python\n{code}\n```"


def math_problems(number: int) -> list[dict[str, Any]]:
    """Generated stories of PythonMath: question, answer, and the turns of a solver, a program and the answer."""
    env = gymnasium.make("trm/PythonMath-v0", horizon=MATH_HORIZON).unwrapped
    problems = []
    for seed in range(number):
        env.reset(seed=seed)
        story = env._story
        code = "\n".join(story.code(step) for step in range(MATH_HORIZON))
        turns = [fenced(code), f"\\boxed{{{story.answer}}}"]
        problems.append({"question": story.question, "answer": str(story.answer), "turns": turns})
    env.close()
    return problems


def code_problems(number: int) -> list[dict[str, Any]]:
    """Programs that read numbers and print one: question, tests, and the turn that solves it."""
    numbers = random.Random(0)
    problems = []
    for index in range(number):
        factor, offset = numbers.randint(2, 99), numbers.randint(2, 99)
        tests = []
        for _ in range(NUM_TESTS):
            values = [numbers.randint(-999, 999) for _ in range(20)]
            output = sum(factor * value * value + offset for value in values)
            tests.append({"input": " ".join(map(str, values)) + "\n", "output": f"{output}\n"})
        question = (
            f"Problem {index}: print the sum of {factor} * x * x + {offset} over the integers x of the input line."
        )
        code = f"print(sum({factor} * x * x + {offset} for x in map(int, input().split())))"
        problems.append({"question": question, "tests": tests, "code": code, "turns": [fenced(code)]})
    return problems


def write_rows(folder: Path, math: list[dict[str, Any]], code: list[dict[str, Any]]) -> tuple[str, str]:
    """Write the problems as rows that `trm_envs` reads; return the paths of both files."""
    rows = {
        "math": [{"question": problem["question"], "answer": problem["answer"]} for problem in math],
        "code": [
            {
                "question": problem["question"],
                "tests": problem["tests"][:NUM_VISIBLE],
                "hidden_tests": problem["tests"][NUM_VISIBLE:],
                "solution": problem["code"],
            }
            for problem in code
        ],
    }
    paths = []
    for name, made in rows.items():
        paths.append(str(folder / f"{name}.jsonl"))
        Path(paths[-1]).write_text("".join(f"{json.dumps(row)}\n" for row in made))
    return paths[0], paths[1]
