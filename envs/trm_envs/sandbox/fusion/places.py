"""Places of a server, and the sign of life for a client that waits for one: white space in front of the answer."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from aiohttp import web

IN_QUEUE = b" "
"""Sent again and again while a request waits for a free place."""
BEGUN = b"\n"
"""Sent then, when its program begins; like the other it is white space, which JSON may have in front."""
BEAT_S = 1.0
"""Interval between signs of life to a request that waits."""
_T = TypeVar("_T")


class Reply:
    """The answer to a request, begun early if the request has to wait.

    Args:
        request: the request.
    """

    def __init__(self, request: "web.BaseRequest") -> None:
        self.request = request
        self.response: web.StreamResponse | None = None

    async def wait_for(self, waiting: Coroutine[Any, Any, _T], quiet_s: float = 0.0) -> _T:
        """Wait, with signs of life for the client after `quiet_s`; if it hangs up, what is waited for is cancelled."""
        task = asyncio.ensure_future(waiting)
        try:
            await asyncio.wait({task}, timeout=quiet_s)
            while not task.done():
                await self.write(IN_QUEUE)
                await asyncio.wait({task}, timeout=BEAT_S)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        return task.result()

    async def write(self, data: bytes) -> None:
        """Send a part of the answer."""
        if self.response is None:
            from aiohttp import web

            self.response = web.StreamResponse(headers={"Content-Type": "application/json"})
            await self.response.prepare(self.request)
        await self.response.write(data)


class Places:
    """A FIFO semaphore for requests.

    Args:
        number: how many may hold a place at once.
    """

    def __init__(self, number: int) -> None:
        self._free = asyncio.Semaphore(number)

    async def take(self, reply: Reply) -> None:
        """Take a place; the client is told of a wait and of its end."""
        taken: list[bool] = []

        async def acquire() -> None:
            taken.append(await self._free.acquire())

        try:
            if self._free.locked():
                await reply.wait_for(acquire())
            else:
                await acquire()
            if reply.response is not None:
                await reply.write(BEGUN)
        except BaseException:
            if taken:
                self._free.release()
            raise

    def give_back(self) -> None:
        """Free a place."""
        self._free.release()
