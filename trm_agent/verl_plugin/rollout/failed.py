"""Training and validation episodes that could not be played: what the trainer learns of each."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

import transfer_queue as tq

FAILURES = "infrastructure_failures_{stream}"
"""Partition of verl's queue for each stream of tasks: validation comes before a step's metrics are made."""
WORKER_ERROR = "worker_error"
"""Reason beside those of `StopReason`: the agent loop raised, or the row of the episode did not reach the queue."""
DRAWN_OUTSIDE = "drawn_outside"
"""Reason that ends the run: to go on without such episodes would choose them by what the model wrote."""
_MOST_CHARACTERS = 500


class DrawnOutside(ValueError):
    """A token was drawn from outside of the set that its request recorded: its ratio would be that of no policy."""


def check_drawn(tags: Iterable[Mapping[str, Any]]) -> None:
    """End a run whose server draws from more than what it records.

    Args:
        tags: of training episodes that could not be played.

    Raises:
        DrawnOutside: one of them was lost for that.
    """
    for tag in tags:
        if tag.get("stop_reason") == DRAWN_OUTSIDE:
            raise DrawnOutside(tag["error"])


async def report_failure(stream: str, uid: str, reason: str, error: str, late_turn_tokens: int | None = None) -> None:
    """Put the tag of an episode that counts as an infrastructure failure into verl's queue.

    Args:
        stream: of the task.
        uid: verl's name of the task.
        reason: a `StopReason`, `WORKER_ERROR` or `DRAWN_OUTSIDE`.
        error: what went wrong.
        late_turn_tokens: see `Episode`.
    """
    tag = {
        "uid": uid,
        "stop_reason": reason,
        "error": error[:_MOST_CHARACTERS],
        "late_turn_tokens": late_turn_tokens,
    }
    await tq.async_kv_put(key=uuid4().hex, partition_id=FAILURES.format(stream=stream), tag=tag)


@asynccontextmanager
async def failures_counted(stream: str, uid: str) -> AsyncIterator[None]:
    """Count an episode as `WORKER_ERROR` if what plays and stores it raises, and raise that.

    Args:
        stream: of the task.
        uid: verl's name of the task.
    """
    try:
        yield
    except Exception as error:
        # a queue that takes nothing must not hide the first error, which verl logs
        with suppress(Exception):
            await report_failure(stream, uid, WORKER_ERROR, f"{type(error).__name__}: {error}")
        raise
