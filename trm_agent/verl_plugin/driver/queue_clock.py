"""For how much of a step the queue between rollout and trainer held nothing that the trainer could take."""

from collections.abc import Collection


class QueueClock:
    """Counts the seconds of a step in which no task that is done waits for the trainer.

    A task waits from the end of its last episode until it is taken. The trainer looks at the queue when it takes tasks,
    and once after the step: what was done in between is known by then, and when.

    All times are in seconds since the epoch. One that lies before what has been counted, or beyond what is counted to,
    as clocks of several machines may have it, counts as that.
    """

    def __init__(self) -> None:
        self._began = self._until = self._ended = 0.0
        self._empty_s = 0.0
        self._holds_some = False
        self._is_known = True

    def begin(self, now: float) -> None:
        """Begin a step."""
        self._began = self._until = self._ended = now
        self._empty_s, self._is_known = 0.0, True

    def take(self, now: float, done: Collection[float] | None, num_left: int) -> None:
        """Count up to the moment at which the trainer takes tasks.

        Args:
            now: the moment.
            done: of each task in the queue, taken or left, when it was done; None where that is not known of all.
            num_left: number of tasks that are left.
        """
        self._go_on(now, done)
        self._holds_some = num_left > 0

    def end(self, now: float) -> None:
        """End the step."""
        self._ended = now

    def share(self, done: Collection[float] | None) -> float | None:
        """Return the share of the step in which the queue held no task that was done; None where it is not known.

        Args:
            done: of each task that is in the queue by now, when it was done, be it after the end of the step.
        """
        self._go_on(self._ended, done)
        whole = self._ended - self._began
        return self._empty_s / whole if whole > 0 and self._is_known else None

    def _go_on(self, now: float, done: Collection[float] | None) -> None:
        if done is None:
            self._is_known = False
            return
        now = max(now, self._until)
        if not self._holds_some:
            first = min(done, default=now)
            self._empty_s += min(max(first, self._until), now) - self._until
        self._until = now
