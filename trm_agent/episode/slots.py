"""What keeps the event loop awake while many environments compute."""

import asyncio
import functools
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

NUM_SLOTS = 2
HOLD_S = 0.005
GC_THRESHOLD = (10_000, 10, 10)
"""Python's own, (700, 10, 10), collects some 14 times as often. About a million objects can wait to be collected, or a
quarter of those that live if that is more."""


@functools.cache
def tune_garbage_collection() -> None:
    """Take all that this process has loaded out of later garbage collections, and have those come less often; once.

    A collection stops every thread. A full one looks at every object: tens of milliseconds with the modules of a
    trainer or an engine, which never become garbage. A short one takes 3 to 7 if its thread has to wait for a processor
    meanwhile. What somebody has set to collect less often still, or never (a first threshold of 0), stays.
    """
    gc.collect()
    gc.freeze()
    own = gc.get_threshold()
    if own[0] > 0:
        gc.set_threshold(*map(max, own, GC_THRESHOLD))


class Places:
    """Lets a number of bodies run at a time, on each event loop.

    Args:
        number: of places.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        # a semaphore belongs to one event loop
        self._of_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            weakref.WeakKeyDictionary()
        )

    def semaphore(self) -> asyncio.Semaphore:
        """Return the running event loop's."""
        return self._of_loop.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self._number))

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place over the body."""
        async with self.semaphore():
            yield


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
        self._places, self.hold_s = Places(number), hold_s

    async def take(self) -> "Slot":
        """Wait for a slot; the caller gives it back after `hold_s`, or before."""
        free = self._places.semaphore()
        await free.acquire()
        return Slot(free)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a slot over the body, for `hold_s` at most."""
        slot = await self.take()
        timer = asyncio.get_running_loop().call_later(self.hold_s, slot.give_back)
        try:
            yield
        finally:
            timer.cancel()
            slot.give_back()


class Slot:
    """A slot that is held until it is given back."""

    __slots__ = ("_free",)

    def __init__(self, free: asyncio.Semaphore) -> None:
        self._free: asyncio.Semaphore | None = free

    def give_back(self) -> None:
        """Let another call have it; after the first time nothing happens."""
        free, self._free = self._free, None
        if free is not None:
            free.release()
