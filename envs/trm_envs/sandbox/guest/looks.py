"""The looks of PID 1 at what a running program and all that it starts hold: how soon, and who is stopped for them.

A look takes longer than PID 1 may run without a break where others wait for the same processor: what they fill in the
meantime is seen by the next look alone. So a look is planned from when the last one counted, not from its end, and if
it comes so late that the memory can be used up, the processes are stopped before anything else is done.
"""

import contextlib
import signal
import time

from . import crowds, memory, rest, wire
from .process import Program


class Looks:
    """The looks at one program while it runs.

    Args:
        running: the program.
        order: its limits.
        deadline: of the call.
        proc: a /proc that hides nothing.
    """

    def __init__(self, running: Program, order: wire.Order, deadline: float, proc: int) -> None:
        self._running, self._order, self._deadline, self._proc = running, order, deadline, proc
        self._size = crowds.Size(1, 1)
        self._left, self._counted = order.memory_bytes, time.monotonic()
        """Bytes that were left at the last look, and since when they may have become less."""
        self.next = self._next_whole = self._counted + memory.patience(self._left)
        """When the next look is due."""

    def look(self) -> bool:
        """Look at the memory, and from time to time at all else; return False, with all killed, if too much is used."""
        is_whole = time.monotonic() >= self._next_whole
        with contextlib.ExitStack() as stack:
            is_stopped = self._stop_in_time(stack)
            is_crowd = self._size.is_crowd and not (self._order.has_share and self._order.has_memory)
            if is_crowd and not is_stopped:
                stack.enter_context(rest.stopped(self._proc))
                is_stopped = True
            if not is_stopped:
                rest.wake_newborn(self._proc)
            self._count(is_whole, stops=not (self._order.has_memory or is_stopped))
            if is_crowd:
                self._running.share.lower(self._proc)  # before they go on, one after the other
            if is_stopped:
                self._counted = time.monotonic()
        self.next = self._counted + memory.patience(self._left, self._size.processes)
        if is_whole and self._left >= 0:
            self._next_whole = time.monotonic() + memory.WATCH_S
            if not self._order.has_share:
                self._running.share.look(self._proc)
        return self._left >= 0

    def _stop_in_time(self, stack: contextlib.ExitStack) -> bool:
        """Count the processes; stop those that can have used up the memory, if they were several before, first."""
        is_stopped = self._can_be_used_up()
        if is_stopped:
            stack.enter_context(rest.stopped(self._proc))
        self._size = crowds.size(self._proc)
        if not is_stopped and self._can_be_used_up():
            stack.enter_context(rest.stopped(self._proc))
            return True
        return is_stopped

    def _can_be_used_up(self) -> bool:
        since = time.monotonic() - self._counted
        return not self._order.has_memory and memory.can_be_used_up(self._left, since, self._size.processes)

    def _count(self, is_whole: bool, stops: bool) -> None:
        """Count what is left of the memory; kill all if there is too much of anything."""
        self._counted = time.monotonic()
        self._left = self._running.memory_left(self._proc, self._order, stops, self._deadline)
        if self._left >= 0 and is_whole and self._running.overreaches(self._proc, stops=stops):
            rest.signal_all(signal.SIGKILL)
