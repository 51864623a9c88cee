"""Bodies of requests: how many bytes of them are in memory at once, in which order, and how long one may take."""

import asyncio
import time
from collections import deque

from trm_envs.sandbox.fusion.bounds import Bounds
from trm_envs.sandbox.fusion.places import Reply

FREE_BYTES = 1 << 16
"""Bytes of a body that never wait: short requests come in beside long ones."""
QUIET_S = 5.0
"""Seconds that a body waits for room before its client gets signs of life, and with them HTTP 200."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Slow(Exception):
    """A body did not arrive in time."""


class TooLong(Exception):
    """A body is longer than allowed."""


class Account:
    """The bytes that one request holds.

    Args:
        ledger: the sum of all.
    """

    def __init__(self, ledger: "Ledger") -> None:
        self._ledger = ledger
        self.num_bytes = 0
        ledger.arriving.append(self)

    def fits(self, number: int) -> bool:
        """Return whether there is room for more bytes."""
        return self.num_bytes + number <= FREE_BYTES or self._ledger.has_room_for(self, number)

    async def add(self, number: int) -> None:
        """Wait until there is room for more bytes, and take it."""
        while not self.fits(number):
            await self._ledger.change()
        self.num_bytes += number
        self._ledger.num_bytes += number

    def complete(self) -> None:
        """Note that the body is complete; its bytes stay taken."""
        if self in self._ledger.arriving:
            self._ledger.arriving.remove(self)
            self._ledger.complete_bytes += self.num_bytes
            self._ledger.wake()

    def close(self) -> None:
        """Give the bytes back; may be called again."""
        self.complete()
        self._ledger.num_bytes -= self.num_bytes
        self._ledger.complete_bytes -= self.num_bytes
        self.num_bytes = 0
        self._ledger.wake()


class Ledger:
    """Bounds the bytes of all requests in memory.

    While they are below `most`, every body is read. At `most` only the one that began to arrive first goes on, so that
    there is always one that comes to its end, and it goes on as long as it and the complete ones are below `most`.

    Args:
        most: bytes of complete bodies; as many can be in memory of incomplete ones.
    """

    def __init__(self, most: int) -> None:
        self.num_bytes = self.complete_bytes = 0
        self.arriving: deque[Account] = deque()
        self._most = most
        self._changed: asyncio.Future[None] | None = None

    def has_room_for(self, account: Account, number: int) -> bool:
        """Return whether an account may take `number` more bytes."""
        if self.num_bytes + number <= self._most:
            return True
        complete = self.complete_bytes
        return self.arriving[0] is account and (complete + account.num_bytes + number <= self._most or not complete)

    async def change(self) -> None:
        """Wait until something has changed."""
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._changed)

    def wake(self) -> None:
        """Have those who wait look again."""
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set_result(None)


async def read_body(reply: Reply, account: Account, bounds: Bounds) -> bytearray:
    """Return a request's body; a client that waits for room gets signs of life after a while.

    Raises:
        Slow: if it does not arrive in time; waits for room do not count.
        TooLong: if it is longer than allowed.
    """
    request = reply.request
    if request.headers.get("Expect") is not None:
        await request.writer.write(CONTINUE)
    body = bytearray()
    spent_s = 0.0
    while True:
        allowed_s = min(bounds.body_s, bounds.slow_s + len(body) / bounds.rate) - spent_s
        started = time.monotonic()
        try:
            chunk = await asyncio.wait_for(request.content.readany(), max(allowed_s, 0.001))
        except asyncio.TimeoutError:
            raise Slow(f"{len(body)} bytes of the request's body arrived in {spent_s + allowed_s:.0f} s") from None
        spent_s += time.monotonic() - started
        if not chunk:
            account.complete()
            return body
        if len(body) + len(chunk) > bounds.body_bytes:
            raise TooLong
        if account.fits(len(chunk)):
            await account.add(len(chunk))
        else:
            await reply.wait_for(account.add(len(chunk)), QUIET_S)
        body += chunk
