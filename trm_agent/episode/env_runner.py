"""Runs one environment in a thread of its own, so that nothing it does blocks the event loop or its siblings."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from trm_agent.episode.env_step import EnvStart, EnvStep, checked_start, checked_step
from trm_agent.episode.env_threads import DEFAULT_THREADS, EnvThread, EnvThreads
from trm_agent.episode.limits import Limits
from trm_agent.episode.outcomes import Cause, cause_of_error
from trm_agent.episode.slots import Slot
from trm_agent.episode.step_time import StepTime, ToolClock, tool_clock
from trm_envs.errors import describe as type_and_message
from trm_envs.errors import on_one_line, place_of

logger = logging.getLogger(__name__)
T = TypeVar("T")
MAX_MESSAGE_CHARACTERS = 1000
MIN_LOOK_S = 0.02


class TimedOut(Exception):
    """A wait ran out of time; not TimeoutError, which an environment may raise by itself."""


class EnvRaised(Exception):
    """The environment raised or broke its contract; the message says where and what.

    Attributes:
        cause: its row in the table of outcomes.
    """

    def __init__(self, message: str, cause: Cause) -> None:
        super().__init__(message)
        self.cause = cause


def describe(error: BaseException) -> str:
    """One line for a log: type, message and the innermost place."""
    return f"{type_and_message(error, MAX_MESSAGE_CHARACTERS)}{on_one_line(place_of(error))}"


async def within(
    awaitable: asyncio.Future[T] | Coroutine[Any, Any, T], timeout_s: float, paused_s: Callable[[], float] = lambda: 0.0
) -> T:
    """Awaits with a deadline, and leaves at once when it is over, even if the awaited refuses to be cancelled.

    Args:
        awaitable: what is awaited.
        timeout_s: the deadline, seconds from now.
        paused_s: seconds that count against no deadline, of a number that grows while they pass.

    Raises:
        TimedOut: after `timeout_s` seconds.
        RuntimeError: the awaited was cancelled by somebody else.
    """
    task = asyncio.ensure_future(awaitable)
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def wake(_: Any = None) -> None:
        if not over.done():
            over.set_result(None)

    timer: asyncio.TimerHandle

    def look() -> None:
        nonlocal timer
        left_s = due + paused_s() - loop.time()
        if left_s > 0:
            timer = loop.call_later(max(left_s, MIN_LOOK_S), look)
        else:
            wake()

    task.add_done_callback(wake)
    due = loop.time() + timeout_s - paused_s()
    timer = loop.call_later(timeout_s, look)
    try:
        await over
    except BaseException:
        _leave(task)
        raise
    finally:
        timer.cancel()
    if not task.done():
        _leave(task)
        raise TimedOut
    if task.cancelled():
        raise RuntimeError("cancelled from outside of the episode")
    return task.result()


def _leave(task: asyncio.Future[Any]) -> None:
    """Cancel a task that nobody awaits any more; its exception is not reported as never retrieved."""
    task.cancel()
    task.add_done_callback(lambda late: late.cancelled() or late.exception())


class EnvRunner:
    """One environment in one thread. Each method takes the seconds that it may take.

    Every method but `close` raises TimedOut when the time is over and EnvRaised when the environment failed. Waits for
    a free place do not count against the time.
    """

    def __init__(self, make_env: Callable[[], Any], limits: Limits, threads: EnvThreads | None = None) -> None:
        self._make_env, self._limits = make_env, limits
        self._clock: ToolClock = StepTime()
        self._waited_s = 0.0
        self._threads = DEFAULT_THREADS if threads is None else threads
        self._env: Any = None
        self._released = False
        self._thread: EnvThread | None = None

    async def make(self, timeout_s: float) -> None:
        """Build the environment."""

        def job() -> None:
            self._env = self._make_env()
            clock = tool_clock(self._env)
            clock.set_limits(self._limits.tool_time_s, self._limits.episode_tool_time_s)
            limit_calls = getattr(getattr(self._env, "unwrapped", None), "limit_tool_calls", None)
            if callable(limit_calls):  # another environment's calls are counted once they have run
                limit_calls(self._limits.max_tool_calls)
            self._clock = clock

        await self._call("make", job, timeout_s)

    async def reset(self, seed: int | None, options: dict[str, Any], timeout_s: float) -> EnvStart:
        """Reset the environment and read the prompt's parts."""

        def job() -> EnvStart:
            observation, _ = self._env.reset(seed=seed, options=dict(options))
            # Gymnasium's wrappers hide the attributes of what they wrap behind this method.
            read = getattr(self._env, "get_wrapper_attr", functools.partial(getattr, self._env))
            return checked_start(read, observation)

        return await self._call("reset", job, timeout_s)

    async def step(self, text: str, timeout_s: float) -> EnvStep:
        """Give the environment one assistant turn."""

        def job() -> EnvStep:
            clock = self._clock
            if not isinstance(clock, StepTime):
                return checked_step(self._env.step(text))
            with clock.step():
                step = checked_step(self._env.step(text))
            is_over = step.terminated or step.truncated
            return step if is_over or not clock.is_used_up() else replace(step, tool_time_is_used_up=True)

        return await self._call("step", job, timeout_s)

    @property
    def waited_s(self) -> float:
        """Seconds waited for a free place so far: among the environments that compute, and in a sandbox."""
        return self._waited_s + self._clock.waited_s()

    def tool_time_is_used_up(self) -> bool:
        """Whether the model's programs have used up their time, also while one of them runs."""
        return self._clock.is_used_up()

    async def close(self, timeout_s: float) -> None:
        """Close the environment; never raises. After a timeout, and after `release`, it returns at once."""
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
                error = EnvRaised(f"env.{name} failed: {describe(raised)}", cause_of_error(name, raised))
            _hand_over(loop, future, (result, error))

        asked = time.monotonic()
        slot = await self._threads.slots.take()
        self._waited_s += time.monotonic() - asked
        alarm = None
        try:
            if self._thread is None:
                self._thread = self._threads.lend()
            self._thread.put(run)
            most_s = timeout_s + self._limits.episode_timeout_s
            hold_s = self._threads.slots.hold_s
            alarm = _Alarm(loop, future, timeout_s, most_s, lambda: self._clock.waited_s(), slot, hold_s)
            result, error = await future
        except TimedOut:
            assert self._thread is not None, "no time passes without a thread"
            self._threads.abandon(self._thread)
            self.release()
            raise
        finally:
            if alarm is not None:
                alarm.cancel()
            slot.give_back()
        if error is not None:
            raise error
        return result  # type: ignore[return-value]


class _Alarm:
    """Fails a future after some seconds, those waited for a place not counted, and ends the hold of its slot before.

    A wait that never ends is something broken: after `most_s` the future fails whatever was waited for.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        future: asyncio.Future[Any],
        timeout_s: float,
        most_s: float,
        waited_s: Callable[[], float],
        slot: Slot,
        hold_s: float,
    ) -> None:
        self._loop, self._future, self._waited_s, self._slot = loop, future, waited_s, slot
        now = loop.time()
        self._first_look, self._due = now + timeout_s, now + timeout_s - waited_s()
        self._at_the_latest = now + most_s
        # one timer for both: most calls end before either
        first = self._free if hold_s < timeout_s else self._look
        self._timer = loop.call_at(now + min(hold_s, timeout_s), first)

    def cancel(self) -> None:
        self._timer.cancel()

    def _free(self) -> None:
        self._slot.give_back()
        self._timer = self._loop.call_at(self._first_look, self._look)

    def _look(self) -> None:
        self._slot.give_back()
        now = self._loop.time()
        left_s = min(self._due + self._waited_s(), self._at_the_latest) - now
        if left_s > 0:
            # the least keeps a wait under way from being looked at all the time
            self._timer = self._loop.call_later(max(left_s, MIN_LOOK_S), self._look)
        elif not self._future.done():
            self._future.set_exception(TimedOut())


def _hand_over(loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], outcome: T) -> None:
    """Set the future's result from another thread; nobody may be waiting any more."""

    def deliver() -> None:
        if not future.done():
            future.set_result(outcome)

    try:
        loop.call_soon_threadsafe(deliver)
    except RuntimeError:
        logger.debug("the event loop was closed before the environment returned")
