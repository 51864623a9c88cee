"""Training and validation episodes that could not be played: what the trainer learns of each."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

import transfer_queue as tq

FAILURES = "infrastructure_failures_{stream}"
"""Partition of verl's queue for each stream of tasks: validation comes before a step's metrics are made."""
WORKER_ERROR = "worker_error"
"""Reason beside those of `StopReason`: the agent loop raised, or the row of the episode did not reach the queue."""
_MOST_CHARACTERS = 500


async def report_failure(stream: str, uid: str, reason: str, error: str, late_turn_tokens: int | None = None) -> None:
    """Put the tag of an episode that counts as an infrastructure failure into verl's queue.

    Args:
        stream: of the task.
        uid: verl's name of the task.
        reason: a `StopReason`, or `WORKER_ERROR`.
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
