"""What keeps the event loop awake while many environments compute."""

import asyncio
import functools
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

NUM_SLOTS = 2
HOLD_S = 0.005


@functools.cache
def freeze_loaded() -> None:
    """Take all that this process has loaded out of later garbage collections, once.

    A full collection looks at every object and stops every thread meanwhile: tens of milliseconds with the modules of a
    trainer or an engine, which never become garbage.
    """
    gc.collect()
    gc.freeze()


class RunSlots:
    """Lets a few calls into environments begin at a time.

    Threads that all want Python's lock keep it from the event loop, one switch interval each. So a call waits for a
    slot, and gives it back when it returns or after `hold_s`: what takes longer than that waits for something else,
    such as a sandbox, and holds nobody up.

    Args:
        number: of slots.
        hold_s: seconds after which a slot is free again, whatever became of the call.
    """

    def __init__(self, number: int = NUM_SLOTS, hold_s: float = HOLD_S) -> None:
        self._number, self._hold_s = number, hold_s
        # a semaphore belongs to one event loop
        self._of_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            weakref.WeakKeyDictionary()
        )

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a slot over the body, for `hold_s` at most."""
        loop = asyncio.get_running_loop()
        free = self._of_loop.setdefault(loop, asyncio.Semaphore(self._number))
        await free.acquire()
        held = [free]

        def give_back() -> None:
            if held:
                held.pop().release()

        timer = loop.call_later(self._hold_s, give_back)
        try:
            yield
        finally:
            timer.cancel()
            give_back()
