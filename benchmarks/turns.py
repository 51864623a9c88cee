"""Measure the processor time of a turn in the episode loop, by part, without an engine.

python -m benchmarks.turns [--before FOLDER] [--tokenizer FOLDER] [--rounds 5]

128 episodes of the default recipe at once (ChainMath of 2, 4 and 6 steps), played by the environment's solver; the
engine answers at once. With groups of 8 the same tasks come 8 times, as in training, and with groups of 1 all differ.
The parts are timed by the clock of their own thread. The cost of the way to an environment's thread and back is that
of calls that do nothing, and the cost of a time limit on the engine's answer is the difference to waiting without
one. FOLDER holds another version of the code, which is measured in turn with this one.
"""

import argparse
import asyncio
import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

EPISODES, HORIZONS = 128, (2, 4, 6)
ENV_ID, KWARGS = "trm/ChainMath-v0", {"reveal": "stepwise"}
GROUPS = (8, 1)
REPEATS = 4
LIMITS = {
    "max_turns": 12,
    "max_tool_calls": 12,
    "max_turn_tokens": 32,
    "max_observation_tokens": 64,
    "max_prompt_tokens": 64,
    "max_response_tokens": 288,
}
ENVIRONMENT, OUTSIDE, REST = "environment itself", "rest of its threads", "rest of the event loop"
CALLS, TIMEOUT, TOTAL = "  in both: the way to it and back", "  in it: time limits on the engine", "all"


class Parts:
    """Processor time by part, seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time charged to a part."""

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            started = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.thread_time() - started

        return run

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Time every part in the block."""
        from trm_agent.episode import ChatTokens, Episode, env_runner, loop

        call = env_runner.EnvRunner._call

        async def timed_call(runner: Any, name: str, job: Callable[[], Any], timeout_s: float) -> Any:
            return await call(runner, name, self.timed(ENVIRONMENT, job), timeout_s)

        with contextlib.ExitStack() as stack:
            for method in ("prompt", "decode", "fit", "observation"):
                timed = self.timed(f"chat.{method}", getattr(ChatTokens, method))
                stack.enter_context(patch.object(ChatTokens, method, timed))
            stack.enter_context(patch.object(Episode, "check", self.timed("Episode.check", Episode.check)))
            checked = self.timed("checked_generation", loop.checked_generation)
            stack.enter_context(patch.object(loop, "checked_generation", checked))
            stack.enter_context(patch.object(env_runner.EnvRunner, "_call", timed_call))
            yield


class Script:
    """An engine that answers at once with the solver's turns."""

    def __init__(self, turns: list[list[int]]) -> None:
        self.turns = iter(turns)

    async def generate(self, prompt_ids: list[int], max_tokens: int) -> Any:
        from trm_agent.episode import Generation

        ids = next(self.turns)
        await asyncio.sleep(0)
        return Generation(ids, [-0.5] * len(ids), True)


class Load:
    """The episodes of one batch."""

    def __init__(self, tokenizer: Any, group: int) -> None:
        from trm_agent.episode import Limits, chat_tokens
        from trm_agent.models.traces import Solver

        self.chat, self.limits = chat_tokens(tokenizer), Limits(**LIMITS)
        self.tasks = [(number // group, HORIZONS[number // group % 3]) for number in range(EPISODES)]
        solver = Solver(ENV_ID, "train", kwargs=KWARGS)
        self.scripts = {}
        for task in set(self.tasks):
            turns = [each["content"] for each in solver.solve(*task).messages if each["role"] == "assistant"]
            ids = [tokenizer.encode(turn, add_special_tokens=False) for turn in turns]
            self.scripts[task] = [[*each, self.chat.end_of_turn_id] for each in ids]
        self.num_turns = sum(len(self.scripts[task]) for task in self.tasks)

    async def play(self) -> None:
        from trm_agent.episode import run_episode
        from trm_agent.episode.record import episode_record
        from trm_agent.tasks import make_env

        async def one(seed: int, horizon: int) -> Any:
            options = {"horizon": horizon}
            return await run_episode(
                functools.partial(make_env, ENV_ID, None, KWARGS),
                Script(self.scripts[seed, horizon]),
                self.chat,
                self.limits,
                env_id=ENV_ID,
                seed=seed,
                options=options,
            )

        episodes = await asyncio.gather(*(one(*task) for task in self.tasks))
        assert all(episode.success for episode in episodes)
        assert sum(episode.num_turns for episode in episodes) == self.num_turns
        started = time.thread_time()
        for episode in episodes:
            json.dumps(episode_record(episode))
        self.record_s = time.thread_time() - started

    def cost(self, parts: Parts | None = None) -> tuple[float, float]:
        """Return the processor time of the process and of its event loop for one batch, seconds."""
        process, thread = time.process_time(), time.thread_time()
        with parts.watching() if parts else contextlib.nullcontext():
            asyncio.run(self.play())
        return time.process_time() - process, time.thread_time() - thread


async def empty_calls(number: int = 10) -> None:
    """Call as many environments as there are episodes, all at once, for nothing."""
    from trm_agent.episode import Limits
    from trm_agent.episode.env_runner import EnvRunner

    async def one() -> None:
        runner = EnvRunner(lambda: None, Limits())
        for _ in range(number):
            await runner._call("step", lambda: None, 60.0)
        runner.release()

    await asyncio.gather(*(one() for _ in range(EPISODES)))


async def answers(limited: bool, number: int = 10) -> None:
    """Await as many engine's answers, with a time limit or without."""
    from trm_agent.episode.env_runner import within

    async def one() -> None:
        for _ in range(number):
            await (within(asyncio.sleep(0), 60.0) if limited else asyncio.sleep(0))

    await asyncio.gather(*(one() for _ in range(EPISODES)))


def least(play: Callable[[], Any], number: int) -> float:
    """Return the smallest processor time of some runs, seconds, of one of so many."""
    found = []
    for _ in range(REPEATS):
        started = time.process_time()
        asyncio.run(play())
        found.append(time.process_time() - started)
    return min(found) / number


def measure(tokenizer_folder: str, group: int) -> dict[str, float]:
    """Return microseconds a turn by part, each batch with a renderer that has seen no text yet."""
    from transformers import AutoTokenizer

    from trm_agent.episode import tune_garbage_collection

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    load = Load(tokenizer, group)
    load.cost()
    tune_garbage_collection()
    total = min(Load(tokenizer, group).cost()[0] for _ in range(REPEATS))
    figures = {
        "episode_record, json": load.record_s,
        # make, reset and close beside the steps
        CALLS: least(empty_calls, 10 * EPISODES) * (load.num_turns + 3 * EPISODES),
        TIMEOUT: (least(lambda: answers(True), 10 * EPISODES) - least(lambda: answers(False), 10 * EPISODES))
        * load.num_turns,
    }
    parts = Parts()
    process, thread = Load(tokenizer, group).cost(parts)
    own = dict(parts.seconds)
    environment = own.pop(ENVIRONMENT)
    timed = sum(own.values()) + figures["episode_record, json"]
    figures |= {**own, ENVIRONMENT: environment, OUTSIDE: process - thread - environment, REST: thread - timed}
    figures[TOTAL] = total
    return {name: 1e6 * seconds / load.num_turns for name, seconds in figures.items()}


ROWS = (
    *("chat.prompt", "chat.observation", "chat.fit", "chat.decode", "checked_generation", "Episode.check"),
    *("episode_record, json", ENVIRONMENT, OUTSIDE, REST, CALLS, TIMEOUT, TOTAL),
)


def in_tree(tree: Path, *arguments: str) -> dict[str, float]:
    """Measure once in a process of its own with the code of a folder."""
    path = os.pathsep.join([str(tree), str(tree / "envs")])
    done = subprocess.run(
        [sys.executable, __file__, "--once", *arguments],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
        timeout=120,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="another version of the code")
    parser.add_argument("--tokenizer", metavar="FOLDER", help="a tokenizer's (default: the nano model's)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--group", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(measure(arguments.tokenizer, arguments.group)))
        return
    from trm_agent.models.nano import ensure_nano_model
    from trm_agent.models.nano_spec import NanoSpec

    tokenizer = arguments.tokenizer or str(ensure_nano_model(NanoSpec()))
    trees = {**({"before": arguments.before.resolve()} if arguments.before else {}), "now": Path(__file__).parents[1]}
    for group in GROUPS:
        found: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
        for _ in range(arguments.rounds):
            for name, tree in trees.items():
                found[name].append(in_tree(tree, "--tokenizer", tokenizer, "--group", str(group)))
        print(f"microseconds of processor time a turn, groups of {group}, median of {arguments.rounds}")
        print(f"{'':<36}" + "".join(f"{name:>10}" for name in trees))
        for row in ROWS:
            print(f"{row:<36}" + "".join(f"{statistics.median(e[row] for e in found[n]):>10.0f}" for n in trees))
        pairs = zip(*found.values(), strict=True)
        print("all, in turns: ", ", ".join(" / ".join(f"{each[TOTAL]:.0f}" for each in pair) for pair in pairs))


if __name__ == "__main__":
    main()
