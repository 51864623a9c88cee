"""Environments with one planted fault each, and the sound one that they derive from: fakes for the checker's tests."""

import os
import random
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

import trm_envs


class Sound(trm_envs.ToolEnv):
    """Add up hidden numbers that a tool tells."""

    system_prompt = "Add the numbers up; give the sum as {answer}."
    tools: Sequence[Any] = ()

    def make_task(self) -> str:
        self.left = [int(number) for number in self.np_random.integers(1, 10_000, size=self.options.horizon)]
        self.sum, self.task_key = sum(self.left), str(self.left)
        return f"There are {len(self.left)} numbers."

    @trm_envs.tool
    def run(self, code: str) -> str:
        """Return the next number.

        Args:
            code: anything
        """
        return str(self.left.pop(0)) if self.left else "none"

    def score(self, answer: str) -> float:
        return float(answer.strip() == str(self.sum))

    def solution(self) -> str:
        return self.call("run", code="next") if self.left else self.answer(str(self.sum))


class DrawsFromTheGlobalState(Sound):
    def make_task(self) -> str:
        super().make_task()
        return f"{random.random()} numbers."


class SeedsTheGlobalState(Sound):
    def make_task(self) -> str:
        np.random.seed(int(self.np_random.integers(1000)))
        return super().make_task() + f" {np.random.rand()}"


class DependsOnTheHashSeed(Sound):
    def make_task(self) -> str:
        return super().make_task() + f" {hash('seed') % 1000}"


class IgnoresTheSeed(Sound):
    def make_task(self) -> str:
        super().make_task()
        self.left, self.sum, self.task_key = [1], 1, "always"
        return "one number"


class LeaksTheSplit(Sound):
    """The key is noise, so that one task is in both splits."""

    def make_task(self) -> str:
        message = super().make_task()
        self.left = [number % 5 for number in self.left]
        self.sum = sum(self.left)
        self.task_key = str(self.np_random.random())
        return message


class IgnoresTheSplit(Sound):
    def _draw(self) -> str:
        message, self.task_id = self.make_task(), "0" * 15 + str(len(self.left))
        return message


class CrashesOnJunk(Sound):
    def score(self, answer: str) -> float:
        return float(int(answer) == self.sum)


class VoidsOnJunk(Sound):
    """Its scorer says of junk that nobody can decide it."""

    def score(self, answer: str) -> float:
        if not answer.isdigit():
            raise trm_envs.VerifierError("cannot be read")
        return super().score(answer)


class HasAWrongSolver(Sound):
    def solution(self) -> str:
        return self.call("run", code="next") if self.left else self.answer("0")


class NeverAnswers(Sound):
    def solution(self) -> str:
        return self.call("run", code="next")


class HasNoSolver(Sound):
    def solution(self) -> str:
        return trm_envs.ToolEnv.solution(self)


class ShowsNoJson(Sound):
    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        *rest, info = super().step(action)
        return (*rest, {**info, "left": np.int64(len(self.left))})  # type: ignore[return-value]


class RewardsJunk(Sound):
    def score(self, answer: str) -> float:
        return max(super().score(answer), 0.1)


class EndsOnMalformedCalls(Sound):
    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated or info["malformed"], truncated, info


class BearsAGrudge(Sound):
    """Who once wrote a malformed call can no longer win."""

    grudge = False

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        outcome = super().step(action)
        self.grudge = self.grudge or outcome[4]["malformed"]
        return outcome

    def score(self, answer: str) -> float:
        return 0.0 if self.grudge else super().score(answer)


class TakesAnyOption(Sound):
    def __init__(self, **options: Any) -> None:
        super().__init__(**{name: value for name, value in options.items() if name in ("horizon", "protocol")})


class StepsOutsideEpisodes(Sound):
    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if not self._running:
            return "", 0.0, False, False, {"role": "user", "num_tool_calls": 0, "malformed": False}
        return super().step(action)


class LeaksDescriptors(Sound):
    def make_task(self) -> str:
        os.open(os.devnull, os.O_RDONLY)
        return super().make_task()


class LeaksThreads(Sound):
    def make_task(self) -> str:
        threading.Thread(target=time.sleep, args=(20,), daemon=True).start()
        return super().make_task()


class LeaksProcesses(Sound):
    """A child that has ended and is never waited for."""

    def make_task(self) -> str:
        if (pid := os.fork()) == 0:
            os._exit(0)
        assert pid
        return super().make_task()


class IsSlow(Sound):
    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if "]" in action:
            time.sleep(0.3)
        return super().step(action)


class Hangs(Sound):
    def score(self, answer: str) -> float:
        time.sleep(30)
        return 0.0


class FailsInLongEpisodes(Sound):
    turns = 0

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.turns += 1
        if self.turns > 400:
            raise MemoryError("too many turns")
        return super().step(action)


class HasAnotherReward(Sound):
    def score(self, answer: str) -> float:
        return 2.0 * super().score(answer)


class PaysForEveryCall(Sound):
    @trm_envs.tool
    def run(self, code: str) -> trm_envs.ToolResult:
        """Return the next number, and pay.

        Args:
            code: anything
        """
        return trm_envs.ToolResult(str(self.left.pop(0)) if self.left else "none", reward=0.3)


class PaysForTheLastCall(PaysForEveryCall):
    """The solver gets 1; who calls on gets more."""

    @trm_envs.tool
    def run(self, code: str) -> trm_envs.ToolResult:
        """Return the next number, and pay for the last one, as often as it is asked for.

        Args:
            code: anything
        """
        if self.left[1:]:
            return trm_envs.ToolResult(str(self.left.pop(0)))
        return trm_envs.ToolResult(str(self.left[0]), reward=1.0, terminated=code == "end")


class CostsEveryCall(Sound):
    """Whoever does not play on loses nothing."""

    reward_range = (-100.0, 1.0)


class CostsLessUnfinished(CostsEveryCall):
    """The same, though it has a bound."""

    unfinished_reward = 0.0


class PlaysOnAfterItsEnd(Sound):
    @trm_envs.tool
    def run(self, code: str) -> trm_envs.ToolResult:
        """End the task by the last number.

        Args:
            code: anything
        """
        self.left.pop()
        return trm_envs.ToolResult("more", reward=float(not self.left), terminated=not self.left)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        outcome = super().step(action)
        self._running = self._running or "code" in action
        return outcome


class VariesItsOneTask(Sound):
    one_task = True
