"""The time that the model's programs use, for environments that keep no account of it themselves."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

_METHODS = ("set_limits", "is_used_up", "waited_s")


class ToolClock(Protocol):
    """What the episode loop asks of an environment's `tool_time`; each may be called from any thread."""

    def set_limits(self, turn_s: float | None, episode_s: float | None) -> None:
        """Say what one turn and one episode may use, seconds."""
        ...

    def is_used_up(self) -> bool:
        """Whether the turn's or the episode's time is spent, what is under way counted."""
        ...

    def waited_s(self) -> float:
        """Seconds waited for a free place so far, a wait under way counted."""
        ...


class StepTime:
    """A `ToolClock` that takes the whole of each `step` for the model's programs, and knows of no waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turn_s: float | None = None
        self._episode_s: float | None = None
        self._before_s = 0.0
        self._began: float | None = None

    def set_limits(self, turn_s: float | None, episode_s: float | None) -> None:
        self._turn_s, self._episode_s = turn_s, episode_s

    @contextmanager
    def step(self) -> Iterator[None]:
        """Count what happens in the block."""
        with self._lock:
            self._began = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._before_s, self._began = self._before_s + time.monotonic() - self._began, None

    def is_used_up(self) -> bool:
        with self._lock:
            turn = 0.0 if self._began is None else time.monotonic() - self._began
            total = self._before_s + turn
        return _exceeds(turn, self._turn_s) or _exceeds(total, self._episode_s)

    def waited_s(self) -> float:
        return 0.0


def tool_clock(env: Any) -> ToolClock:
    """Return the environment's own clock, also through Gymnasium's wrappers; else one that counts its steps."""
    read = getattr(env, "get_wrapper_attr", None)
    try:
        clock = getattr(env, "tool_time", None) if read is None else read("tool_time")
    except AttributeError:
        clock = None
    if clock is None or not all(callable(getattr(clock, name, None)) for name in _METHODS):
        return StepTime()
    return clock


def _exceeds(used_s: float, limit_s: float | None) -> bool:
    return limit_s is not None and used_s >= limit_s
