"""Problems that both sides of `benchmarks.environments` are given: the same questions, tests and turns."""

import json
import random
from pathlib import Path
from typing import Any

import gymnasium

import trm_envs  # noqa: F401

MATH_HORIZON = 4  # the default of our environments
NUM_TESTS, NUM_VISIBLE = 8, 2


def fenced(code: str) -> str:
    """Code as a turn that both sides take for a call of their Python tool."""
    return f"```python\n{code}\n```"


def math_problems(number: int) -> list[dict[str, Any]]:
    """Generated stories of PythonMath: question, answer, and for each step a program that computes all up to it."""
    env = gymnasium.make("trm/PythonMath-v0", horizon=MATH_HORIZON).unwrapped
    problems = []
    for seed in range(number):
        env.reset(seed=seed)
        story = env._story
        steps = [story.code(step) for step in range(MATH_HORIZON)]
        programs = ["\n".join(steps[: count + 1]) for count in range(MATH_HORIZON)]  # GEM's tool keeps no variables
        problems.append({"question": story.question, "answer": str(story.answer), "programs": programs})
    env.close()
    return problems


def math_turns(problem: dict[str, Any], num_calls: int) -> list[str]:
    """So many calls of the Python tool, the last with the whole program, and the answer."""
    return [*map(fenced, problem["programs"][-num_calls:]), f"\\boxed{{{problem['answer']}}}"]


def code_problems(number: int) -> list[dict[str, Any]]:
    """Programs that read numbers and print one: question, tests, and the code that solves it."""
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
        problems.append({"question": question, "tests": tests, "code": code})
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
