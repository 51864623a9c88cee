"""The threads that environments live in."""

import itertools
import queue
import threading
from collections.abc import Callable

from trm_agent.episode.slots import RunSlots

_numbers = itertools.count()


class EnvThread:
    """A daemon thread that does jobs in their order, for one episode after another."""

    def __init__(self, give_back: "Callable[[EnvThread], None]") -> None:
        self._give_back = give_back
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=f"trm-env-{next(_numbers)}", daemon=True)
        self._thread.start()

    def put(self, job: Callable[[], None]) -> None:
        """Have a job done after those before it; it must not raise."""
        self._jobs.put(job)

    def release(self) -> None:
        """Free the thread for another episode once its jobs are done; the caller puts none any more."""
        self._jobs.put(None)

    def is_alive(self) -> bool:
        """Return False in a process that was forked off the thread's."""
        return self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                self._give_back(self)
            else:
                job()
            del job  # else this frame would keep the last result alive while it waits


class EnvThreads:
    """Lends each episode a thread of its own and counts those that had to be abandoned.

    A thread cannot be killed, so in a bounded pool each hanging environment would take a worker away from the others;
    here there are as many as there are episodes at one time. A thread whose episode is over waits for the next one: to
    start a thread is to wait for it, which with busy siblings has held up the event loop for tens of milliseconds.
    An abandoned thread closes its environment and serves again once the call that hangs returns. Daemon threads do not
    keep the process alive. What cannot be helped here: code that holds the interpreter lock (a C extension that never
    releases it) stops the whole process; run it in a subprocess.

    Attributes:
        num_lent: episodes that have had a thread so far.
        num_abandoned: threads whose environment outlived a timeout, so far.
        slots: how many of them compute at one time.
    """

    def __init__(self) -> None:
        self.slots = RunSlots()
        self.num_lent = 0
        self.num_abandoned = 0
        self._idle: list[EnvThread] = []
        self._abandoned: set[EnvThread] = set()

    @property
    def num_stuck(self) -> int:
        """Abandoned threads that still have not returned."""
        return len(self._abandoned)

    def lend(self) -> EnvThread:
        """Return a thread for one episode, which gives it back by `release`."""
        self.num_lent += 1
        while self._idle:
            thread = self._idle.pop()
            if thread.is_alive():
                return thread
        return EnvThread(self._take_back)

    def abandon(self, thread: EnvThread) -> None:
        """Count a thread that nobody waits for any more."""
        self.num_abandoned += 1
        self._abandoned.add(thread)

    def _take_back(self, thread: EnvThread) -> None:
        # in that thread; each of these is one step to the interpreter
        self._abandoned.discard(thread)
        self._idle.append(thread)


DEFAULT_THREADS = EnvThreads()
