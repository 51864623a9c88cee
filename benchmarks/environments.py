"""Environment steps a second with many episodes at once in one process, against GEM and reasoning-gym.

python -m benchmarks.environments [--concurrent 256] [--episodes 10000] [--rivals PYTHON]

Every episode runs as in training: an EnvRunner thread of its own, called from one event loop. The turns are taken
beforehand, from the scripted solver. PYTHON is an interpreter that has gem-llm (and with it reasoning-gym) installed.
The closest environments are our bridge to reasoning-gym's chain_sum and GEM's, both with a Python tool, ours isolated.

Aims: steps at 3 times the rate of the closest environment; the event loop not blocked for more than 10 ms; descriptors,
processes and threads as before, however many episodes have been played. The loop is blocked while its thread does
something else or waits for Python's lock: how late it wakes, less the time for which the kernel let it wait for a
processor, which with more running processes than processors is no work of this process.
"""

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import gymnasium
import psutil

import trm_envs  # noqa: F401
from trm_agent.episode import freeze_loaded
from trm_agent.episode.env_runner import EnvRunner

TIMEOUT_S = 120.0
NUM_SCRIPTS = 64
CHAIN, PYTHON, BRIDGE = "trm/ChainMath-v0", "trm/PythonMath-v0", "trm/ReasoningGym-v0"


def scripts(env_id: str, number: int, **options: Any) -> list[list[str]]:
    """The solver's turns for the seeds 0 to number - 1; of the bridge, whose solver calls no tool, after a program."""
    env = gymnasium.make(env_id, **options).unwrapped
    made = []
    for seed in range(number):
        env.reset(seed=seed)
        turns = [env.call("python", code="print(1 + 1)")] if env_id == BRIDGE else []
        terminated = False
        while not terminated:
            turns.append(env.solution())
            _, _, terminated, _, _ = env.step(turns[-1])
        made.append(turns)
    env.close()
    return made


class Gap(NamedTuple):
    """One waking of the event loop, seconds."""

    late: float
    blocked: float
    """What of it is not a wait for a processor."""


async def play(env_id: str, turns: list[str], seed: int, options: dict[str, Any]) -> int:
    """One episode through a runner; returns its number of steps."""
    runner = EnvRunner(lambda: gymnasium.make(env_id, **options).unwrapped)
    await runner.make(TIMEOUT_S)
    await runner.reset(seed, {}, TIMEOUT_S)
    for turn in turns:
        step = await runner.step(turn, TIMEOUT_S)
    await runner.close(TIMEOUT_S)
    if not step.success:
        raise RuntimeError(f"{env_id}: the solver's episode of seed {seed} failed: {step}")
    return len(turns)


async def play_all(env_id: str, episodes: int, concurrent: int, **options: Any) -> dict[str, float]:
    """Play episodes, so many at once, and watch the event loop meanwhile."""
    made = scripts(env_id, min(NUM_SCRIPTS, episodes), **options)
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


async def idle(seconds: float = 3.0) -> dict[str, float]:
    """How late the event loop is with nothing to do: what the machine itself adds."""
    gaps: list[Gap] = []
    ticker = asyncio.create_task(watch(gaps))
    await asyncio.sleep(seconds)
    ticker.cancel()
    return {"steps_s": 0.0, "episodes_s": 0.0, **lateness(gaps)}


def lateness(gaps: list[Gap]) -> dict[str, float]:
    """How late the loop woke and how long it was blocked: 99th percentile and maximum, ms."""
    figures = {}
    for name, seconds in zip(Gap._fields, zip(*gaps, strict=True), strict=True):
        ordered = sorted(seconds)
        figures[f"{name}_p99_ms"] = 1e3 * ordered[int(0.99 * len(ordered))]
        figures[f"{name}_max_ms"] = 1e3 * ordered[-1]
    return figures


async def watch(gaps: list[Gap]) -> None:
    """Note how late the event loop wakes a sleeper, again and again."""
    with open(f"/proc/self/task/{threading.get_native_id()}/schedstat", "rb", buffering=0) as account:
        while True:
            waited_s = processor_wait_s(account)
            due = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            late = max(time.perf_counter() - due, 0.0)
            gaps.append(Gap(late, max(late - (processor_wait_s(account) - waited_s), 0.0)))


def processor_wait_s(account: BinaryIO) -> float:
    """Seconds for which a thread was ready to run and no processor was free, from the kernel's account of it."""
    return int(os.pread(account.fileno(), 100, 0).split()[1]) / 1e9


def rate(call: Callable[[int], int], seconds: float = 2.0) -> float:
    """Units a second of a call that returns how many it did, in one thread."""
    number = done = 0
    started = time.perf_counter()
    while (now := time.perf_counter()) - started < seconds:
        done += call(number)
        number += 1
    return done / (now - started)


def one_thread(env_id: str, **options: Any) -> float:
    """Steps a second of one environment, called directly."""
    made = scripts(env_id, NUM_SCRIPTS, **options)
    env = gymnasium.make(env_id, **options).unwrapped

    def episode(number: int) -> int:
        seed = number % len(made)
        env.reset(seed=seed)
        for turn in made[seed]:
            env.step(turn)
        return len(made[seed])

    steps_s = rate(episode)
    env.close()
    return steps_s


def one_question() -> float:
    """Tasks a second of ChainMath that are drawn and scored."""
    env = gymnasium.make(CHAIN, horizon=1, reveal="upfront").unwrapped

    def task(number: int) -> int:
        env.reset(seed=number)
        env.step("\\boxed{7}")
        return 1

    return rate(task)


def held() -> dict[str, int]:
    """What this process holds."""
    gc.collect()
    process = psutil.Process()
    children = len(process.children(recursive=True))
    rss = process.memory_info().rss >> 20
    return {"rss_mib": rss, "fds": process.num_fds(), "processes": children, "threads": process.num_threads()}


def rivals(python: str, concurrent: int) -> dict[str, float]:
    """The rivals' figures, from their own interpreter."""
    script = str(Path(__file__).with_name("environments_rivals.py"))
    done = subprocess.run([python, script, str(concurrent)], stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--concurrent", type=int, default=256)
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--python-episodes", type=int, default=512, help="of PythonMath")
    parser.add_argument("--rivals", metavar="PYTHON", help="an interpreter with gem-llm")
    options = parser.parse_args()
    many = options.concurrent

    asyncio.run(play_all(CHAIN, many, many))  # the first use of everything
    freeze_loaded()
    before = held()
    figures = {"an idle event loop": asyncio.run(idle())}
    figures[f"{CHAIN}, {many} at once"] = asyncio.run(play_all(CHAIN, options.episodes, many))
    after = held()
    for env_id in (PYTHON, BRIDGE):
        figures[f"{env_id}, {many} at once"] = asyncio.run(play_all(env_id, options.python_episodes, many))
    print(f"{'p99 and max in ms':<36}{'steps/s':>10}{'episodes/s':>12}{'loop late':>16}{'loop blocked':>16}")
    for name, row in figures.items():
        print(f"{name:<36}{row['steps_s']:>10.0f}{row['episodes_s']:>12.0f}", end="")
        for kind in Gap._fields:
            print(f"{row[f'{kind}_p99_ms']:>10.1f}{row[f'{kind}_max_ms']:>6.1f}", end="")
        print()
    print(f"\n{options.episodes} episodes of {CHAIN}")
    for name in before:
        print(f"{name:<12}{before[name]:>8} before{after[name]:>8} after")
    if options.rivals:
        compare(figures, rivals(options.rivals, many), many)


def compare(figures: dict[str, dict[str, float]], theirs: dict[str, float], many: int) -> None:
    """Print ours beside theirs."""
    rows = [
        (
            f"steps/s, {many} at once, reasoning-gym's chain_sum with Python: ours (isolated) / GEM's (not isolated)",
            figures[f"{BRIDGE}, {many} at once"]["steps_s"],
            theirs["gem_python_concurrent"],
        ),
        ("steps/s, one thread: ChainMath / GEM GuessTheNumber", one_thread(CHAIN), theirs["gem_game"]),
        (
            f"steps/s, {many} at once: ChainMath / GEM GuessTheNumber",
            figures[f"{CHAIN}, {many} at once"]["steps_s"],
            theirs["gem_game_concurrent"],
        ),
        ("tasks/s drawn and scored: ChainMath / reasoning-gym chain_sum", one_question(), theirs["chain_sum"]),
    ]
    print()
    for name, ours, rival in rows:
        print(f"{ours:>10.0f}{rival:>10.0f}{ours / rival:>8.2f} x   {name}")


if __name__ == "__main__":
    sys.exit(main())
