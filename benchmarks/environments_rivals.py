"""GEM's and reasoning-gym's side of `benchmarks.environments`: run by an interpreter that has them, prints JSON.

Each environment is stepped as `gem.make` gives it, with turns of a policy that plays by the rules.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import gem
import reasoning_gym
from gem.tools.python_code_tool import PythonCodeTool
from gem.tools.tool_env_wrapper import ToolEnvWrapper

SECONDS = 2.0
NUM_PYTHON_EPISODES = 256


def rate(call) -> float:
    """Units a second of a call that returns how many it did."""
    done, started = 0, time.perf_counter()
    while (now := time.perf_counter()) - started < SECONDS:
        done += call()
    return done / (now - started)


def game_episode(env) -> int:
    """One episode of guesses from the middle; returns its steps."""
    env.reset()
    steps, guess, over = 0, 25, False
    while not over:
        _, _, terminated, truncated, _ = env.step(f"\\boxed{{{guess}}}")
        over = terminated or truncated
        guess, steps = guess + 1, steps + 1
    return steps


def python_episode(number: int) -> int:
    """A program, then an answer."""
    env = ToolEnvWrapper(gem.make("rg:chain_sum", seed=number, size=2), tools=[PythonCodeTool(timeout=60)])
    env.reset()
    env.step("```python\nprint(1 + 1)\n```")
    env.step("\\boxed{2}")
    return 2


def concurrently(episode, number: int, concurrent: int) -> float:
    """Steps a second of episodes in so many threads."""
    with ThreadPoolExecutor(concurrent) as threads:
        started = time.perf_counter()
        steps = sum(threads.map(episode, range(number)))
        return steps / (time.perf_counter() - started)


def chain_sum() -> float:
    """Items a second that are made and scored."""
    made = reasoning_gym.create_dataset("chain_sum", seed=0, size=10**9)
    numbers = iter(range(10**9))

    def item() -> int:
        entry = made[next(numbers)]
        made.score_answer("7", entry)
        return 1

    return rate(item)


def main() -> None:
    concurrent = int(sys.argv[1])
    game = gem.make("game:GuessTheNumber-v0-hard")
    figures = {
        "gem_game": rate(lambda: game_episode(game)),
        "gem_game_concurrent": concurrently(
            lambda _: game_episode(gem.make("game:GuessTheNumber-v0-hard")), 10_000, concurrent
        ),
        "gem_python_concurrent": concurrently(python_episode, NUM_PYTHON_EPISODES, concurrent),
        "chain_sum": chain_sum(),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
