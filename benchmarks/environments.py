"""Measure environment steps per second with many episodes at once in one process, against GEM and reasoning-gym.

python -m benchmarks.environments [--concurrent 256] [--episodes 10000] [--rivals PYTHON]

Every episode runs as in training: an EnvRunner thread of its own, called from one event loop; making and closing the
environment count. PYTHON is an interpreter with gem-llm, datasets and pylatexenc.

Against GEM each of our environments that has a counterpart there is given the same problems and the same turns: math
with a Python tool and reasoning-gym's chain_sum with a Python tool, one call of it an episode or four (our default
horizon), and programs with tests. Ours are isolated, GEM's are not; GEM has the better of so many threads and of one,
and its environments are made beforehand. Environments without a tool stand beside it: there both sides only parse and
compute, and GEM's and reasoning-gym's own are the cheaper ones.

Aims: steps at 3 times the rate of the closest environment; the event loop not blocked for more than 10 ms; descriptors,
processes and threads as before, however many episodes have been played.
"""

import argparse
import asyncio
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import psutil

from benchmarks.environments_problems import code_problems, fenced, math_problems, math_turns, write_rows
from benchmarks.event_loop import Gap, idle, lateness, watch
from trm_agent.episode import Limits, tune_garbage_collection
from trm_agent.episode.env_runner import EnvRunner

TIMEOUT_S = 120.0
NUM_SCRIPTS = 64
CHAIN, PYTHON, BRIDGE, TESTS = "trm/ChainMath-v0", "trm/PythonMath-v0", "trm/ReasoningGym-v0", "trm/CodeTests-v0"
NUM_CALLS = (1, 4)
"""Calls of the Python tool in an episode."""
ONE_CALL = fenced("print(1 + 1)")
Turns = Callable[[Any, str], list[str]]
"""From an environment and its first message to the turns of an episode."""


def solver_turns(env: Any, _: str) -> list[str]:
    """The scripted solver's turns."""
    turns, terminated = [], False
    while not terminated:
        turns.append(env.solution())
        _, _, terminated, _, _ = env.step(turns[-1])
    return turns


def known_turns(turns: dict[str, list[str]]) -> Turns:
    """The turns that go with the question in the first message."""
    return lambda _, first_message: next(turns[question] for question in turns if question in first_message)


def scripts(env_id: str, turns: Turns, **options: Any) -> list[list[str]]:
    """The turns for the first seeds."""
    env = gymnasium.make(env_id, **options).unwrapped
    made = [turns(env, env.reset(seed=seed)[0]) for seed in range(NUM_SCRIPTS)]
    env.close()
    return made


async def play(env_id: str, turns: list[str], seed: int, options: dict[str, Any]) -> int:
    """One episode through a runner; returns its number of steps."""
    runner = EnvRunner(lambda: gymnasium.make(env_id, **options).unwrapped, Limits())
    await runner.make(TIMEOUT_S)
    await runner.reset(seed, {}, TIMEOUT_S)
    for turn in turns:
        step = await runner.step(turn, TIMEOUT_S)
    await runner.close(TIMEOUT_S)
    if not step.success:
        raise RuntimeError(f"{env_id}: the solver's episode of seed {seed} failed: {step}")
    return len(turns)


async def play_all(env_id: str, turns: Turns, episodes: int, concurrent: int, **options: Any) -> dict[str, float]:
    """Play episodes, so many at once, and watch the event loop meanwhile."""
    made = scripts(env_id, turns, **options)
    gaps: list[Gap] = []
    ticker = asyncio.create_task(watch(gaps))
    numbers = iter(range(episodes))

    async def player() -> int:
        # a share of one iterator each: ten thousand tasks at once would count as memory held
        return sum([await play(env_id, made[number % len(made)], number % len(made), options) for number in numbers])

    started = time.perf_counter()
    steps = sum(await asyncio.gather(*(player() for _ in range(concurrent))))
    seconds = time.perf_counter() - started
    ticker.cancel()
    return {"steps_s": steps / seconds, "episodes_s": episodes / seconds, **lateness(gaps)}


def one_thread(env_id: str, turns: Turns, seconds: float = 2.0, **options: Any) -> float:
    """Steps a second of one environment, called directly, episode after episode."""
    made = scripts(env_id, turns, **options)
    env = gymnasium.make(env_id, **options).unwrapped
    steps = number = 0
    started = time.perf_counter()
    while (now := time.perf_counter()) - started < seconds:
        env.reset(seed=number % len(made))
        for turn in made[number % len(made)]:
            env.step(turn)
            steps += 1
        number += 1
    env.close()
    return steps / (now - started)


def held() -> dict[str, int]:
    """Return the resources that this process holds."""
    gc.collect()
    process = psutil.Process()
    children = len(process.children(recursive=True))
    rss = process.memory_info().rss >> 20
    return {"rss_mib": rss, "fds": process.num_fds(), "processes": children, "threads": process.num_threads()}


def rivals(python: str, request: dict[str, Any]) -> dict[str, Any]:
    """The rivals' figures, from their own interpreter."""
    script = str(Path(__file__).with_name("environments_rivals.py"))
    with tempfile.TemporaryDirectory() as folder:  # GEM's tools make folders where they are started
        done = subprocess.run(
            [python, script],
            input=json.dumps(request),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=600,
            cwd=folder,
            env={"PATH": f"{Path(python).absolute().parent}:/usr/bin:/bin"},  # GEM's tools start the `python` of it
        )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--concurrent", type=int, default=256)
    parser.add_argument("--episodes", type=int, default=10_000, help="of ChainMath (default 10000)")
    parser.add_argument("--tool-episodes", type=int, default=1024, help="of each environment with a sandbox")
    parser.add_argument("--rivals", metavar="PYTHON", help="an interpreter with gem-llm, datasets and pylatexenc")
    arguments = parser.parse_args()
    many, episodes = arguments.concurrent, arguments.tool_episodes
    math, code = math_problems(NUM_SCRIPTS), code_problems(NUM_SCRIPTS)

    asyncio.run(play_all(CHAIN, solver_turns, many, many))  # the first use of everything
    tune_garbage_collection()
    before = held()
    figures = {"nothing but the event loop": {"steps_s": 0.0, "episodes_s": 0.0, **asyncio.run(idle())}}
    figures[CHAIN] = asyncio.run(play_all(CHAIN, solver_turns, arguments.episodes, many))
    after = held()
    math_of = {n: {problem["question"]: math_turns(problem, n) for problem in math} for n in NUM_CALLS}
    code_turns = {problem["question"]: [fenced(problem["code"]), "\\boxed{done}"] for problem in code}
    with tempfile.TemporaryDirectory() as folder:
        math_file, code_file = write_rows(Path(folder), math, code)

        def with_sandbox(env_id: str, turns: Turns, **options: Any) -> dict[str, float]:
            return asyncio.run(play_all(env_id, turns, episodes, many, protocol="fenced", horizon=1, **options))

        for number in NUM_CALLS:
            name = f", {number} calls" if number > 1 else ", 1 call"
            figures[PYTHON + name] = with_sandbox(PYTHON, known_turns(math_of[number]), rows=math_file)
            figures[BRIDGE + name] = with_sandbox(BRIDGE, lambda env, _, n=number: [*[ONE_CALL] * n, env.solution()])
        figures[TESTS] = with_sandbox(TESTS, known_turns(code_turns), rows=code_file)
    print(f"{f'{many} episodes at once':<32}{'steps/s':>10}{'episodes/s':>12}", end="")
    print(f"{'loop late, ms':>16}{'loop blocked, ms':>18}   (p99, max)")
    for name, row in figures.items():
        print(f"{name:<32}{row['steps_s']:>10.0f}{row['episodes_s']:>12.0f}", end="")
        print("".join(f"{row[f'{kind}_p99_ms']:>10.1f}{row[f'{kind}_max_ms']:>7.1f}" for kind in Gap._fields))
    print(f"\n{arguments.episodes} episodes of {CHAIN}")
    for name in before:
        print(f"{name:<12}{before[name]:>8} before{after[name]:>8} after")
    if arguments.rivals:
        request = {
            "concurrent": many,
            "code": code,
            "math": {n: [(each["question"], each["answer"], math_turns(each, n)) for each in math] for n in NUM_CALLS},
            "bridge": {n: [ONE_CALL] * n for n in NUM_CALLS},
        }
        compare(figures, rivals(arguments.rivals, request), many)


def compare(figures: dict[str, dict[str, float]], theirs: dict[str, Any], many: int) -> None:
    """Print ours beside theirs."""
    with_tool = [(TESTS, "CodeEnv, the same tests in 1 turn (ours 2)", theirs["code"])]
    for number in NUM_CALLS:
        name = f", {number} calls" if number > 1 else ", 1 call"
        with_tool.append((PYTHON + name, "MathEnv with PythonCodeTool", theirs["math"][str(number)]))
        with_tool.append((BRIDGE + name, "rg:chain_sum with PythonCodeTool", theirs["bridge"][str(number)]))
    print(f"\nepisodes/s, {many} at once, ours isolated\n{'ours':>10}{'GEM':>10}{'ratio':>8}")
    for name, what, (rival, unrewarded) in with_tool:
        ours = figures[name]["episodes_s"]
        note = f"; GEM gave {unrewarded:.0%} of these right answers no reward" if unrewarded else ""
        print(f"{ours:>10.1f}{rival:>10.1f}{ours / rival:>8.2f}   {name} / {what}{note}")
    question = one_thread(CHAIN, lambda *_: ["\\boxed{7}"], horizon=1, reveal="upfront")
    without_tool = [
        (f"{CHAIN} / GEM's GuessTheNumber, one thread", one_thread(CHAIN, solver_turns), theirs["game"]),
        (f"{CHAIN} / GEM's GuessTheNumber, {many} at once", figures[CHAIN]["steps_s"], theirs["game_at_once"]),
        (f"{CHAIN} of one question / reasoning-gym's chain_sum, drawn and scored", question, theirs["chain_sum"]),
    ]
    print("\nsteps/s without a tool")
    for what, ours, rival in without_tool:
        print(f"{ours:>10.0f}{rival:>10.0f}{ours / rival:>8.2f}   {what}")


if __name__ == "__main__":
    sys.exit(main())
