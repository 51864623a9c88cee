"""Scores a second: numbers and fractions on one core, expressions on two, against the scorer of commit b2ece64.

Each scorer runs in a process of its own over the same texts; the old one is read from the repository's history. Seconds
are of processor time (on two cores, half of it), so that a busy machine changes nothing.
"""

import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

BEFORE = "b2ece64"
ROOT = Path(__file__).parents[1]
NUM_NUMBERS = 10_000
NUM_EXPRESSIONS = 800
NUM_CORES = 2
GOALS = {"numbers": 5000, "expressions": 200}


def number_pairs(rng: random.Random) -> tuple[str, str]:
    """Return a true number and an answer in another spelling, half of them wrong."""
    upper, lower, factor = rng.randint(-(10**6), 10**6), rng.randint(1, 99), rng.randint(1, 9)
    wrong = rng.randrange(2)
    truth = rng.choice([f"\\frac{{{upper}}}{{{lower}}}", f"{upper}/{lower}"])
    return truth, f"\\boxed{{\\frac{{{(upper + wrong) * factor}}}{{{lower * factor}}}}}"


def expression_pairs(rng: random.Random) -> tuple[str, str]:
    """Return a true expression and an answer in another spelling, half of them wrong."""
    a, b, c, wrong = rng.randint(2, 99), rng.randint(2, 99), rng.randint(2, 99), rng.randrange(2)
    truth, answer = rng.choice(
        [
            (f"{a}x^2+{b}x+{c}", f"{c + wrong}+{b}x+{a}x^{{2}}"),
            (f"(x+{a})(x-{b})", f"x^2+{a}x-{b}x-{a * b + wrong}"),
            (f"{a}\\sqrt{{2}}+{b}", f"{b}+\\sqrt{{{2 * a * a + wrong}}}"),
            (f"\\frac{{{a}\\pi}}{{{b}}}", f"\\frac{{{a + wrong}}}{{{b}}}\\pi"),
            (f"\\frac{{x+{a}}}{{y-{b}}}", f"\\frac{{{a + wrong}+x}}{{-{b}+y}}"),
            (f"({a}, \\sqrt{{{b * b + 1}}})", f"\\left({a + wrong}, \\sqrt{{{b * b + 1}}}\\right)"),
        ]
    )
    return truth, f"\\boxed{{{answer}}}"


def processor_s(pids: list[int]) -> float:
    """Return the processor time of this process and of others, in seconds."""
    processes = [psutil.Process(), *map(psutil.Process, pids)]
    return sum(process.cpu_times().user + process.cpu_times().system for process in processes)


def measure() -> dict[str, float]:
    """Return the scores a second of the scorer that this process imports."""
    from trm_envs.scoring import WorkerPool, score_math

    rng = random.Random(0)
    numbers = [number_pairs(rng) for _ in range(NUM_NUMBERS)]
    expressions = [expression_pairs(rng) for _ in range(NUM_EXPRESSIONS)]
    start = time.process_time()
    for truth, text in numbers:
        score_math(text, truth)
    numbers_s = time.process_time() - start
    pool = WorkerPool(NUM_CORES)
    with ThreadPoolExecutor(NUM_CORES) as threads:
        # both workers import and read a first time
        list(
            threads.map(
                lambda pair: score_math(pair[1], pair[0], pool=pool), [expression_pairs(rng) for _ in range(40)]
            )
        )
        start = processor_s(pool.pids)
        outcomes = list(threads.map(lambda pair: score_math(pair[1], pair[0], pool=pool), expressions))
        expressions_s = (processor_s(pool.pids) - start) / NUM_CORES
    pool.close()
    undecided = sum(outcome.verdict.value == "verifier_error" for outcome in outcomes)
    return {
        "numbers": NUM_NUMBERS / numbers_s,
        "expressions": NUM_EXPRESSIONS / expressions_s,
        "undecided": undecided / NUM_EXPRESSIONS,
    }


def measure_in(folder: Path) -> dict[str, float]:
    """Return what `measure` finds with the packages of a folder."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    command = [sys.executable, "-m", "benchmarks.scoring", "--measure"]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, timeout=1200
    )
    return json.loads(done.stdout)


def main() -> None:
    """Measure both scorers and print the table."""
    if "--measure" in sys.argv:
        print(json.dumps(measure()))
        return
    after = measure_in(ROOT / "envs")
    archive = subprocess.run(
        ["git", "archive", "--format=zip", BEFORE, "envs/trm_envs"], cwd=ROOT, capture_output=True, check=False
    )
    before: dict[str, float] = {}
    if archive.returncode == 0:
        with tempfile.TemporaryDirectory() as folder:
            with zipfile.ZipFile(io.BytesIO(archive.stdout)) as old:
                old.extractall(folder)
            before = measure_in(Path(folder) / "envs")
    for name, goal in GOALS.items():
        ratio = f"{after[name] / before[name]:.2f} x {BEFORE}" if before else f"{BEFORE} is not here: unmeasured"
        verdict = "reached" if after[name] >= goal else "missed"
        print(f"{name:12} {after[name]:8.0f} a second (goal {goal}: {verdict}); {ratio}")


if __name__ == "__main__":
    main()
