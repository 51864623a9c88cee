"""12,000 rows of DAPO-Math's form: loaded and checked the first time, after it, and as one by one in one worker.

python -m benchmarks.rows [--rows N]

The baseline is the check of before: each truth by itself, one after the other, `score_math` against the same text,
which is a shortcut and looks at nothing. What the shortcut hid is looked at by `one by one`: the present check of each
truth alone, in turn.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

PROMPT = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{}\n\n"
    'Remember to put your answer on its own line after "Answer:".'
)
# shares of the kinds of truth: DAPO-Math has integers alone, MATH and Numina the rest
KINDS: dict[str, tuple[float, Callable[[random.Random], str]]] = {
    "integer": (0.60, lambda rng: str(rng.randrange(-999, 100_000))),
    "fraction": (0.12, lambda rng: f"\\frac{{{rng.randrange(1, 999)}}}{{{rng.randrange(2, 999)}}}"),
    "decimal": (0.05, lambda rng: f"{rng.uniform(0, 99):.3f}"),
    "radical": (0.07, lambda rng: f"{rng.randrange(2, 99)}\\sqrt{{{rng.randrange(2, 999)}}}"),
    "pi": (0.03, lambda rng: f"\\frac{{{rng.randrange(1, 99)}\\pi}}{{{rng.randrange(2, 99)}}}"),
    "expression": (0.06, lambda rng: f"{rng.randrange(2, 99)}x^2-{rng.randrange(2, 999)}x+{rng.randrange(1, 999)}"),
    "pair": (0.04, lambda rng: f"({rng.randrange(-99, 99)}, {rng.randrange(-99, 99)})"),
    "interval": (0.03, lambda rng: f"[{rng.randrange(-99, 0)}, {rng.randrange(1, 99)})"),
}
LOAD = """
import sys, time
started = time.perf_counter()
from trm_envs.rows import load_math_problems
problems = load_math_problems(sys.argv[1], form="line")
print(time.perf_counter() - started, len(problems.numbers))
"""
SHORTCUT = """
import sys, time
started = time.perf_counter()
from trm_envs.rows import convert_rows, math_row
from trm_envs.scoring import score_math
rows = list(convert_rows(sys.argv[1], math_row))
[score_math(truth, truth, bare=True) for truth in dict.fromkeys(row.answer for row in rows)]
print(time.perf_counter() - started, len(rows))
"""
ONE_BY_ONE = """
import sys, time
started = time.perf_counter()
from trm_envs.rows import convert_rows, math_row
from trm_envs.scoring import check_truths
rows = list(convert_rows(sys.argv[1], math_row))
[check_truths([truth]) for truth in dict.fromkeys(row.answer for row in rows)]
print(time.perf_counter() - started, len(rows))
"""


def write_rows(path: Path, number: int, seed: int = 0) -> None:
    """Write a file of different problems in DAPO-Math's form."""
    rng = random.Random(seed)
    shares = [share for share, _ in KINDS.values()]
    with path.open("w") as file:
        for index, kind in enumerate(rng.choices(list(KINDS), shares, k=number)):
            text = f"Problem {index}: " + " ".join(rng.choices(("find", "the", "sum", "$x^2$", "of", "all"), k=60))
            row = {"prompt": [{"role": "user", "content": PROMPT.format(text)}]}
            file.write(json.dumps({**row, "reward_model": {"ground_truth": KINDS[kind][1](rng)}}) + "\n")


def measure(program: str, path: Path, cache: Path) -> tuple[float, float]:
    """Seconds that a fresh process takes, its imports counted, and processor seconds of it and its workers."""
    environment = {**os.environ, "TRM_AGENT_CACHE": str(cache)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return float(done.stdout.split()[0]), used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=12_000)
    number = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        path, cache = Path(folder) / "rows.jsonl", Path(folder) / "cache"
        write_rows(path, number)
        print(f"{number} rows, {path.stat().st_size / 1e6:.1f} MB", flush=True)
        seconds = {"first time": measure(LOAD, path, cache), "after it": measure(LOAD, path, cache)}
        seconds["before: the shortcut alone"] = measure(SHORTCUT, path, cache)
        seconds["one by one"] = measure(ONE_BY_ONE, path, cache)
    print(f"{'':<28}{'seconds':>10}{'processor':>11}{'first time : this':>20}")
    for name, (wall, used) in seconds.items():
        print(f"{name:<28}{wall:>10.2f}{used:>11.2f}{seconds['first time'][0] / wall:>20.2f}")


if __name__ == "__main__":
    main()
