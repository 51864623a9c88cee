"""Places of a server, and the sign of life for a client that waits for one: white space in front of the answer."""

import asyncio
import collections
import contextlib
from collections.abc import Coroutine, Iterator
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
    """Places for programs: addresses in turn, and the requests of one address first come, first served.

    Args:
        number: how many requests may hold a place at once.
        waiting: how many more may be inside.
        address_waiting: how many more of one address.
    """

    def __init__(self, number: int, waiting: int, address_waiting: int) -> None:
        self._most, self._most_of_one = number + waiting, number + min(waiting, address_waiting)
        self._inside: collections.Counter[str] = collections.Counter()
        self._free = number
        # the address whose turn it is stands first
        self._lines: dict[str, collections.deque[asyncio.Future[None]]] = {}

    @property
    def num_inside(self) -> int:
        """The number of requests that run or wait."""
        return self._inside.total()

    def is_full_for(self, address: str) -> bool:
        """Return whether a further request of an address is one too many."""
        return self.num_inside >= self._most or self._inside[address] >= self._most_of_one

    @contextlib.contextmanager
    def entered(self, address: str) -> Iterator[None]:
        """Count a request that runs or waits."""
        self._inside[address] += 1
        try:
            yield
        finally:
            self._inside[address] -= 1
            if not self._inside[address]:
                del self._inside[address]

    async def take(self, reply: Reply, address: str) -> None:
        """Take a place; the client is told of a wait and of its end."""
        taken: list[bool] = []

        async def acquire() -> None:
            await self._acquire(address)
            taken.append(True)

        try:
            if self._free:
                await acquire()
            else:
                await reply.wait_for(acquire())
            if reply.response is not None:
                await reply.write(BEGUN)
        except BaseException:
            if taken:
                self.give_back()
            raise

    async def _acquire(self, address: str) -> None:
        if self._free:  # then nobody waits
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        line = self._lines.setdefault(address, collections.deque())
        line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back()
            elif turn in line:
                line.remove(turn)
                if not line and self._lines.get(address) is line:
                    del self._lines[address]
            raise

    def give_back(self) -> None:
        """Free a place, or hand it to the address that has waited longest since its last one."""
        while self._lines:
            address = next(iter(self._lines))
            line = self._lines.pop(address)
            turn = line.popleft()
            if line:
                self._lines[address] = line
            if not turn.done():  # its client has hung up
                turn.set_result(None)
                return
        self._free += 1
