"""Places of a server, and the sign of life for a client that waits for one: white space in front of the answer."""

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiohttp import web

IN_QUEUE = b" "
"""Sent again and again while a request waits for a free place."""
BEGUN = b"\n"
"""Sent then, when its program begins; like the other it is white space, which JSON may have in front."""
BEAT_S = 1.0
"""Interval between signs of life to a request that waits."""


class Places:
    """So many places for requests.

    Args:
        number: of the places.
    """

    def __init__(self, number: int) -> None:
        self._free = asyncio.Semaphore(number)

    async def take(self, request: "web.Request", make: Any) -> "web.StreamResponse | None":
        """Take a place; return the response that was begun for a request that had to wait, else None.

        Args:
            request: the request that waits.
            make: makes the response.
        """
        if not self._free.locked():
            await self._free.acquire()
            return None
        response: web.StreamResponse = make(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        place = asyncio.ensure_future(self._free.acquire())
        try:
            while not place.done():
                await response.write(IN_QUEUE)
                await asyncio.wait({place}, timeout=BEAT_S)
            await response.write(BEGUN)
        except BaseException:
            if not place.cancel() and not place.cancelled():
                self._free.release()
            raise
        return response

    def give_back(self) -> None:
        """Free a place."""
        self._free.release()
