"""Rows on their way into verl's queue, many in one message: a message costs the event loop as much as ten turns."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

GATHER_S = 0.25
"""Longest time that a row waits for others, seconds."""
MOST_BYTES = 64 << 20
"""Size of the tensors of a message of several rows at most; a larger row has a message of its own."""
DONE = "done_at"
"""Key of an episode's tag: when it was done, seconds since the epoch."""


@dataclass(frozen=True)
class Row:
    """An episode as verl's queue holds it."""

    partition: str
    """verl's partition, `train` or `val`."""
    key: str
    """verl's key of the episode."""
    fields: dict[str, Any]
    """Tensors and other values by name."""
    tag: dict[str, Any]
    """What the trainer reads without the fields."""


@dataclass
class _Waiting:
    row: Row
    stored: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Outbox:
    """Gathers rows while other episodes are played, and sends them together.

    Args:
        put: verl's `async_kv_batch_put`.
    """

    def __init__(self, put: Callable[..., Awaitable[Any]]) -> None:
        self._put = put
        self._waiting: list[_Waiting] = []
        self._playing = 0
        self._nobody_plays = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None

    @contextmanager
    def playing(self) -> Iterator[None]:
        """Hold an episode that may put a row; when every other one has put or ended, what has come is sent at once."""
        self._playing += 1
        try:
            yield
        finally:
            self._playing -= 1
            self._look()

    async def put(self, row: Row) -> None:
        """Return as soon as the queue has the row, or raise what its message raised."""
        waiting = _Waiting(row)
        self._waiting.append(waiting)
        if self._sender is None:
            self._nobody_plays.clear()
            self._sender = asyncio.create_task(self._send())
        self._look()
        await waiting.stored

    def _look(self) -> None:
        if len(self._waiting) >= self._playing:
            self._nobody_plays.set()

    async def _send(self) -> None:
        gathered: list[_Waiting] = []
        try:
            while self._waiting:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._nobody_plays.wait(), GATHER_S)
                self._nobody_plays.clear()
                gathered, self._waiting = self._waiting, []
                # those under way play no more, and hold nobody up
                self._playing -= len(gathered)
                try:
                    for message in _messages(gathered):
                        await self._send_one(message)
                finally:
                    self._playing += len(gathered)
                self._look()
        except BaseException as error:
            # nobody would wake their episodes; the next row starts a sender of its own
            left, self._waiting = [*gathered, *self._waiting], []
            _fail(left, RuntimeError(f"the row was not sent to the data queue: {type(error).__name__}"))
            raise
        finally:
            self._sender = None

    async def _send_one(self, message: list[_Waiting]) -> None:
        rows = [each.row for each in message]
        try:
            fields = list_of_dict_to_tensordict([row.fields for row in rows])
        except Exception as error:
            if len(message) == 1:
                _fail(message, error)
                return
            # one row that goes with no other is to fail no other
            for each in message:
                await self._send_one([each])
            return
        try:
            await self._put(
                keys=[row.key for row in rows],
                fields=fields,
                tags=[row.tag for row in rows],
                partition_id=rows[0].partition,
            )
        except Exception as error:
            _fail(message, error)
            return
        for each in message:
            if not each.stored.done():
                each.stored.set_result(None)


def _fail(rows: list[_Waiting], error: Exception) -> None:
    for each in rows:
        if not each.stored.done():
            each.stored.set_exception(error)


def _messages(gathered: list[_Waiting]) -> list[list[_Waiting]]:
    """Return the rows by partition and names of fields, in the order in which they came, up to `MOST_BYTES` each."""
    found: list[list[_Waiting]] = []
    last: dict[tuple[str, tuple[str, ...]], tuple[list[_Waiting], int]] = {}
    for each in gathered:
        kind, size = (each.row.partition, tuple(each.row.fields)), _size(each.row)
        message, so_far = last.get(kind, ([], 0))
        if not message or so_far + size > MOST_BYTES:
            message, so_far = [], 0
            found.append(message)
        message.append(each)
        last[kind] = message, so_far + size
    return found


def _size(row: Row) -> int:
    """Return the bytes of a row's tensors; all else is small."""
    return sum(value.nbytes for value in row.fields.values() if isinstance(value, torch.Tensor))
