"""Places for requests that run at once."""

import threading
from collections import deque

from trm_envs.tool_time import waiting


class Slots:
    """A FIFO semaphore; a `threading.Semaphore` lets late callers overtake.

    Args:
        number: how many callers may hold a place at once.
    """

    def __init__(self, number: int) -> None:
        self._free = number
        self._lock = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._lock:
            if self._free > 0:
                self._free -= 1
                return
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append(gate)
        try:
            with waiting():
                gate.acquire()
        except BaseException:  # an interrupt from the keyboard
            with self._lock:
                still_waits = gate in self._waiting
                if still_waits:
                    self._waiting.remove(gate)
            if not still_waits:
                self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1
