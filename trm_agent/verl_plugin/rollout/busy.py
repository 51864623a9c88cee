"""How busy a rollout server is: for how long its engine had turns to sample, and how many at a time."""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reading:
    """A server's account since its start; the difference of two is that of the time between them."""

    at: float
    """Seconds of the server's own clock, which only goes forward."""
    busy_s: float
    """Seconds with at least one turn in the engine."""
    turn_s: float
    """Seconds that turns were in the engine, added up over the turns."""


class BusyClock:
    """Counts the seconds in which an engine has turns to sample.

    Args:
        now: seconds of a clock that only goes forward.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._at, self._busy_s, self._turn_s = now(), 0.0, 0.0
        self._num_turns = 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Count a turn that is in the engine."""
        self._go_on()
        self._num_turns += 1
        try:
            yield
        finally:
            self._go_on()
            self._num_turns -= 1

    def read(self) -> Reading:
        """Return the account up to now."""
        self._go_on()
        return Reading(self._at, self._busy_s, self._turn_s)

    def _go_on(self) -> None:
        now = self._now()
        if self._num_turns:
            self._busy_s += now - self._at
            self._turn_s += (now - self._at) * self._num_turns
        self._at = now


async def counted(outputs: AsyncIterator[Any], clock: BusyClock) -> AsyncIterator[Any]:
    """Pass a turn's outputs on; it counts from the first that is asked for until the last, or until it is cut."""
    with clock.turn():
        async for output in outputs:
            yield output
