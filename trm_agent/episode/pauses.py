"""Times at which the engine stands still by design, which count against no limit of an episode."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Pauses:
    """The pauses of an episode's turns, such as those while an engine takes new weights.

    Args:
        now: seconds of a clock that only goes forward.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._before = now, 0.0
        self._began: float | None = None

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Let the clock of the episode stand still inside the block."""
        self._began = self._now()
        try:
            yield
        finally:
            self._before, self._began = self.seconds(), None

    def seconds(self) -> float:
        """Return the seconds of all pauses so far, that of the present one included."""
        return self._before + (0.0 if self._began is None else self._now() - self._began)

    def timings(self) -> dict[str, float]:
        """Return the entry of `Episode.timings`; empty without a pause."""
        return {"paused": self._before} if self._before else {}
