"""Resources of a task's programs: memory, stack and packages, by option and by row."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import trm_envs  # noqa: F401
from tests.envs.sandbox_support import needs_bubblewrap
from trm_envs.tasks.code_rows import row_problem

SORTED = f"sortedcontainers=={importlib.metadata.version('sortedcontainers')}"
DEEP = "import sys\nsys.setrecursionlimit(10**6)\nx, y = [], []\nfor _ in range(200000): x, y = [x], [y]\nprint(x == y)"
LARGE = "x = bytearray(100 << 20)\nprint(len(x))"


def row(program_prints: str, **changes: Any) -> dict:
    tests = [{"input": "", "output": program_prints}]
    return {"question": "Print it.", "tests": tests, "hidden_tests": tests, **changes}


def made(rows: Path, **options: Any) -> Any:
    env = gymnasium.make("trm/CodeTests-v0", rows=str(rows), horizon=1, split="all", **options).unwrapped
    env.reset(seed=0)
    return env


def passes(env: Any, program: str) -> bool:
    return env.step(env.call("run_tests", code=program))[0].startswith("Passed")


@pytest.mark.slow
@needs_bubblewrap
@pytest.mark.parametrize(
    ("program", "output", "need"), [(DEEP, "True", {"stack_mb": 100}), (LARGE, "104857600", {"memory_mb": 256})]
)
def test_a_row_and_an_option_give_a_program_what_it_needs(
    tmp_path: Path, program: str, output: str, need: dict
) -> None:
    plain, needy = tmp_path / "plain.jsonl", tmp_path / "needy.jsonl"
    plain.write_text(json.dumps(row(output)))
    needy.write_text(json.dumps(row(output, **need)))
    little = {"memory_mb": 64} if "memory_mb" in need else {}
    assert not passes(made(plain, **little), program)
    assert passes(made(plain, **little | need), program)
    env = made(needy, **little)
    assert passes(env, program)
    assert env.step(env.answer("done"))[1] == 1.0


@needs_bubblewrap
def test_declared_packages_are_there_and_named_in_the_prompt_and_no_others(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(row("[1, 2]")))
    program = "from sortedcontainers import SortedList\nprint(list(SortedList([2, 1])))"
    env = made(rows, packages=[SORTED])
    assert f"sortedcontainers {SORTED.partition('==')[2]}." in env.system_prompt
    assert passes(env, program)
    plain = made(rows)
    assert "packages" not in plain.system_prompt
    assert not passes(plain, program)


@pytest.mark.parametrize(
    "env_id", ["trm/PythonMath-v0", "trm/CodeTests-v0", "trm/CodeRepair-v0", "trm/ReasoningGym-v0"]
)
def test_packages_that_are_not_there_are_refused_as_the_environment_is_made(env_id: str) -> None:
    for packages, message in (
        (["no-such-thing==1"], "declared and not installed"),
        (["sortedcontainers==0.1"], "sortedcontainers==0.1 is declared, sortedcontainers=="),
        (["numpy"], "not a package with a version"),
        ("numpy==1", "allowed: a list"),
    ):
        with pytest.raises(ValueError, match=f"packages.*{message}"):
            gymnasium.make(env_id, packages=packages)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory_mb": 1}, "memory_mb: got 1; allowed: a whole number from 32"),
        ({"memory_mb": 512.5}, "memory_mb: got 512.5"),
        ({"stack_mb": 101}, "stack_mb: got 101; allowed: a whole number from 1 to 100"),
    ],
)
def test_limits_that_are_not_allowed_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gymnasium.make("trm/CodeTests-v0", **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory_mb": 1}, 'field "memory_mb": got 1; allowed: a whole number from 32'),
        ({"stack_mb": "8"}, "field \"stack_mb\": got '8'"),
        ({"tolerance": 0}, 'field "tolerance": 0; expected a number above 0'),
        ({"tolerance": "1e-6"}, "field \"tolerance\": '1e-6'"),
    ],
)
def test_a_row_that_asks_for_what_is_not_allowed_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row("1", **changes)))
    with pytest.raises(ValueError, match=f"row 0 .*{message}"):
        row_problem(str(path), 0)


@pytest.mark.parametrize(
    ("changes", "output", "passed"),
    [
        ({"tolerance": 1e-6}, "1.4142135623730951", True),
        ({"tolerance": 1e-6}, "1.4142", False),
        ({"question": "Print it, with an absolute error of at most $10^{-3}$."}, "1.4142", True),
        ({"question": "An absolute error of at most $10^{-3}$.", "tolerance": 1e-6}, "1.4142", False),
        ({}, "1.4142135623730951", False),
        ({}, "1.414213560", True),
    ],
)
@needs_bubblewrap
def test_a_tolerance_holds_where_the_row_asks_for_real_numbers(
    tmp_path: Path, changes: dict, output: str, passed: bool
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row("1.41421356", **changes)))
    env = made(path)
    assert passes(env, f"print('{output}')") is passed
    assert env.step(env.answer("done"))[1] == float(passed)
