"""Runs one environment in a thread of its own, so that nothing it does blocks the event loop or its siblings."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, SupportsFloat, TypeVar

import numpy as np

from trm_agent.episode.env_threads import DEFAULT_THREADS, EnvThread, EnvThreads
from trm_envs.errors import VerifierError

logger = logging.getLogger(__name__)
T = TypeVar("T")
MAX_MESSAGE_CHARACTERS = 1000


class TimedOut(Exception):
    """A wait ran out of time. (Not TimeoutError, which an environment may raise by itself.)"""


class EnvRaised(Exception):
    """The environment raised or broke its contract; the message says where and what.

    Attributes:
        undecided: whether it was the verifier, which could tell neither right nor wrong.
    """

    def __init__(self, message: str, undecided: bool = False) -> None:
        super().__init__(message)
        self.undecided = undecided


def describe(error: BaseException) -> str:
    """One line for a log: type, message and the innermost place."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" (at {frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name})" if frames else ""
    try:
        message = str(error)[:MAX_MESSAGE_CHARACTERS]
    except Exception as broken:
        message = f"(its message cannot be shown: {type(broken).__name__})"
    return f"{type(error).__name__}: {message}{place}"


async def within(awaitable: asyncio.Future[T] | Coroutine[Any, Any, T], timeout_s: float) -> T:
    """Awaits with a deadline, and leaves at once when it is over, even if the awaited refuses to be cancelled.

    Raises:
        TimedOut: after `timeout_s` seconds.
        RuntimeError: the awaited was cancelled by somebody else.
    """
    task = asyncio.ensure_future(awaitable)
    done: set[Any] = set()
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
    finally:
        if not done:
            task.cancel()
            # Nobody awaits the task any more; without this, its exception would be reported as never retrieved.
            task.add_done_callback(lambda late: late.cancelled() or late.exception())
    if not done:
        raise TimedOut
    if task.cancelled():
        raise RuntimeError("cancelled from outside of the episode")
    return task.result()


@dataclass(frozen=True)
class EnvStart:
    """What a fresh episode begins with."""

    system_prompt: str
    tool_schemas: list[dict[str, Any]]
    observation: str


@dataclass(frozen=True)
class EnvStep:
    """A checked answer of `env.step`; `role` is None and `success` meaningful where the episode ended."""

    observation: str
    role: str | None
    reward: float
    terminated: bool
    truncated: bool
    success: bool
    num_tool_calls: int
    malformed: bool
    numbers: dict[str, float]


class EnvRunner:
    """One environment in one thread. Each method takes the seconds that it may wait.

    Every method but `close` raises TimedOut when the time is over and EnvRaised when the environment failed.
    """

    def __init__(self, make_env: Callable[[], Any], threads: EnvThreads | None = None) -> None:
        self._make_env = make_env
        self._threads = DEFAULT_THREADS if threads is None else threads
        self._env: Any = None
        self._released = False
        self._thread: EnvThread | None = None

    async def make(self, timeout_s: float) -> None:
        """Builds the environment."""

        def job() -> None:
            self._env = self._make_env()

        await self._call("make", job, timeout_s)

    async def reset(self, seed: int | None, options: dict[str, Any], timeout_s: float) -> EnvStart:
        """Resets the environment and reads the prompt's parts."""

        def job() -> EnvStart:
            observation, _ = self._env.reset(seed=seed, options=dict(options))
            # Gymnasium's wrappers hide the attributes of what they wrap behind this method.
            read = getattr(self._env, "get_wrapper_attr", functools.partial(getattr, self._env))
            start = EnvStart(read("system_prompt"), list(read("tool_schemas")), observation)
            _check_type("env.system_prompt", start.system_prompt, str)
            _check_type("the observation of reset", observation, str)
            return start

        return await self._call("reset", job, timeout_s)

    async def step(self, text: str, timeout_s: float) -> EnvStep:
        """Gives the environment one assistant turn."""
        return await self._call("step", lambda: _checked_step(self._env.step(text)), timeout_s)

    async def close(self, timeout_s: float) -> None:
        """Closes the environment; never raises. After a timeout, and after `release`, it returns at once."""
        if self._released or self._thread is None:
            return
        try:
            await self._call("close", self._close, timeout_s)
        except TimedOut:
            logger.warning("env.close took longer than %g s; its thread was abandoned", timeout_s)
        except EnvRaised as error:
            logger.warning("%s", error)
        finally:
            self.release()

    def release(self) -> None:
        """Lets the thread close the environment and end whenever it gets there; waits for nothing."""
        if not self._released:
            self._released = True
            if self._thread is not None:
                self._thread.put(self._close_quietly)
                self._thread.release()

    def _close(self) -> None:
        env, self._env = self._env, None
        if env is not None:
            env.close()

    def _close_quietly(self) -> None:
        try:
            self._close()
        except BaseException as error:
            logger.warning("env.close failed: %s", describe(error))

    async def _call(self, name: str, job: Callable[[], T], timeout_s: float) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[T | None, EnvRaised | None]] = loop.create_future()

        def run() -> None:
            result, error = None, None
            try:
                result = job()
            except BaseException as raised:
                # SystemExit too: an environment's exit is the end of its episode, not of the run.
                error = EnvRaised(f"env.{name} failed: {describe(raised)}", isinstance(raised, VerifierError))
            _hand_over(loop, future, (result, error))

        async with self._threads.slots.slot():
            if self._thread is None:
                self._thread = self._threads.lend()
            self._thread.put(run)
            timer = loop.call_later(timeout_s, _expire, future)
            try:
                result, error = await future
            except TimedOut:
                self._threads.abandon(self._thread)
                self.release()
                raise
            finally:
                timer.cancel()
        if error is not None:
            raise error
        return result  # type: ignore[return-value]


def _hand_over(loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], outcome: T) -> None:
    """Sets the future's result from another thread; nobody may be waiting any more."""

    def deliver() -> None:
        if not future.done():
            future.set_result(outcome)

    try:
        loop.call_soon_threadsafe(deliver)
    except RuntimeError:
        logger.debug("the event loop was closed before the environment returned")


def _expire(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(TimedOut())


def _checked_step(outcome: Any) -> EnvStep:
    observation, reward, terminated, truncated, info = outcome
    done = bool(terminated or truncated)
    _check_type("the observation of step", observation, str)
    _check_type("info", info, dict)
    _check_type("info['num_tool_calls']", info.get("num_tool_calls"), (int, np.integer))
    _check_type("info['malformed']", info.get("malformed"), (bool, np.bool_))
    if terminated:
        _check_type("info['success'] at the end of the episode", info.get("success"), (bool, np.bool_))
    elif not done and info.get("role") not in ("tool", "user"):
        raise ValueError(f"info['role'] is {info.get('role')!r}: it must be 'tool' or 'user'; set it in env.step")
    return EnvStep(
        observation=observation,
        role=None if done else info["role"],
        reward=_finite_reward(reward),
        terminated=bool(terminated),
        truncated=bool(truncated),
        # Gymnasium's TimeLimit truncates without the environment's knowledge, hence without a verdict.
        success=done and bool(info.get("success", False)),
        num_tool_calls=int(info["num_tool_calls"]),
        malformed=bool(info["malformed"]),
        numbers={str(name): float(value) for name, value in dict(info.get("numbers", {})).items()},
    )


def _finite_reward(reward: object) -> float:
    if isinstance(reward, (str, bytes)) or not isinstance(reward, SupportsFloat):
        raise ValueError(f"the reward is {reward!r}: it must be a finite number; return a float from env.step")
    if not math.isfinite(value := float(reward)):
        raise ValueError(f"the reward is {value}: it must be finite; check the scoring in env.step")
    return value


def _check_type(what: str, value: object, kinds: type | tuple[type, ...]) -> None:
    if not isinstance(value, kinds):
        names = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
        raise ValueError(f"{what} is {value!r:.100}: it must be of type {names}; return that from the environment")
