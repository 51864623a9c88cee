"""GEM's and reasoning-gym's side of `benchmarks.environments`: run by an interpreter that has them, prints JSON.

Environments are used as their documentation shows, with the problems and turns that come as JSON on stdin. All turns
are right; episodes that end without the full reward are counted.
"""

import contextlib
import itertools
import json
import logging
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import gem
import reasoning_gym
from datasets import Dataset
from gem.envs.code_env import CodeEnv
from gem.envs.math_env import MathEnv
from gem.tools.python_code_tool import PythonCodeTool
from gem.tools.tool_env_wrapper import ToolEnvWrapper

SECONDS = 2.0
ONE_THREAD_EPISODES = 40


def with_python(env):
    """The environment with GEM's Python tool, which has time enough however many run at once."""
    return ToolEnvWrapper(env, tools=[PythonCodeTool(timeout=60)])


def episodes_s(make, turns_of, at_once: int) -> tuple[float, float]:
    """Episodes per second, the better of so many threads, an environment each, and of one thread; and which part of the
    better ones had no full reward."""

    def play(env) -> bool:
        env.reset()
        for turn in turns_of(env):
            _, reward, terminated, _, _ = env.step(turn)
        assert terminated
        return reward == 1

    def rate(envs, episodes: int) -> tuple[float, float]:
        shares = [len(range(first, episodes, len(envs))) for first in range(len(envs))]
        with ThreadPoolExecutor(len(envs)) as threads:
            started = time.perf_counter()
            played = threads.map(lambda env, share: [play(env) for _ in range(share)], envs, shares)
            rewarded = sum(map(sum, played))
            seconds = time.perf_counter() - started
        for env in envs:
            getattr(env, "close", lambda: None)()
        return episodes / seconds, 1 - rewarded / episodes

    return max(rate([make(seed) for seed in range(at_once)], at_once), rate([make(0)], ONE_THREAD_EPISODES))


def math(turns_of, at_once: int) -> tuple[float, float]:
    """Math problems with the Python tool."""
    rows = Dataset.from_list([{"problem": question, "answer": answer} for question, answer, _ in turns_of])
    turns = {question: turns for question, _, turns in turns_of}
    # graded in a process of its own for each environment, as by default: GEM's other way works in a main thread only
    return episodes_s(
        lambda seed: with_python(MathEnv(dataset=rows, seed=seed)), lambda env: turns[env.env.first_obs], at_once
    )


def code(problems, at_once: int) -> tuple[float, float]:
    """Programs with tests."""
    turns = {each["question"]: [f"```python\n{each['code']}\n```"] for each in problems}
    rows = Dataset.from_list(
        [
            {
                "problem": each["question"],
                "tests": json.dumps({f"{key}s": [test[key] for test in each["tests"]] for key in ("input", "output")}),
            }
            for each in problems
        ]
    )
    # a name that GEM knows to be of the form {"inputs": [...], "outputs": [...]}
    return episodes_s(
        lambda seed: CodeEnv(dataset_name="apps", dataset=rows, seed=seed), lambda env: turns[env.first_obs], at_once
    )


def bridge(calls: list[str], at_once: int) -> tuple[float, float]:
    """A set of reasoning-gym with the Python tool."""
    return episodes_s(
        lambda seed: with_python(gem.make("rg:chain_sum", seed=seed)),
        lambda env: [*calls, f"\\boxed{{{env.env.data['answer']}}}"],
        at_once,
    )


def steps_s(step) -> float:
    """Steps a second of a call that returns how many it did."""
    done, started = 0, time.perf_counter()
    while (now := time.perf_counter()) - started < SECONDS:
        done += step()
    return done / (now - started)


def game() -> float:
    """Guesses in one environment after another."""
    env = gem.make("game:GuessTheNumber-v0-hard")

    def episode() -> int:
        env.reset()
        for number in itertools.count(1):
            _, _, terminated, truncated, _ = env.step(f"\\boxed{{{24 + number}}}")
            if terminated or truncated:
                return number

    return steps_s(episode)


def game_at_once(at_once: int) -> float:
    """Guesses in GEM's own vector of environments, a thread each."""
    with contextlib.redirect_stdout(sys.stderr):
        envs = gem.make_vec(["game:GuessTheNumber-v0-hard"] * at_once, async_mode=True)
    envs.reset()
    guesses = itertools.cycle(f"\\boxed{{{number}}}" for number in range(20, 30))

    def step() -> int:
        envs.step([next(guesses)] * at_once)
        return at_once

    return steps_s(step)


def chain_sum() -> float:
    """Items that are made and scored."""
    made = reasoning_gym.create_dataset("chain_sum", seed=0, size=10**9)
    numbers = itertools.count()

    def item() -> int:
        entry = made[next(numbers)]
        made.score_answer("7", entry)
        return 1

    return steps_s(item)


def main() -> None:
    logging.disable()
    request = json.load(sys.stdin)
    at_once = request["concurrent"]
    figures = {
        "game": game(),
        "game_at_once": game_at_once(at_once),
        "chain_sum": chain_sum(),
        "code": code(request["code"], at_once),
        "bridge": {number: bridge(calls, at_once) for number, calls in request["bridge"].items()},
        "math": {number: math(turns, at_once) for number, turns in request["math"].items()},
    }
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
