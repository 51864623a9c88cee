"""Measure how long an event loop is blocked while others work beside it.

The loop is blocked while its thread does something else or waits for Python's lock: how late it wakes, less the time
for which the kernel let it wait for a processor, which with more running processes than processors is not its doing.
"""

import asyncio
import os
import threading
import time
from typing import BinaryIO, NamedTuple


class Gap(NamedTuple):
    """One waking of the event loop, seconds."""

    late: float
    blocked: float
    """Return the part of it that is not a wait for a processor."""


async def idle(seconds: float = 3.0) -> dict[str, float]:
    """Return the delay of an idle event loop, which is the machine's own share."""
    gaps: list[Gap] = []
    ticker = asyncio.create_task(watch(gaps))
    await asyncio.sleep(seconds)
    ticker.cancel()
    return lateness(gaps)


def lateness(gaps: list[Gap]) -> dict[str, float]:
    """Return the delay of the loop's wake-ups and the time that it was blocked: 99th percentile and maximum, ms."""
    figures = {}
    for name, seconds in zip(Gap._fields, zip(*gaps, strict=True), strict=True):
        ordered = sorted(seconds)
        figures[f"{name}_p99_ms"] = 1e3 * ordered[int(0.99 * len(ordered))]
        figures[f"{name}_max_ms"] = 1e3 * ordered[-1]
    return figures


async def watch(gaps: list[Gap]) -> None:
    """Note how late the event loop wakes a sleeper, again and again."""
    with open(f"/proc/self/task/{threading.get_native_id()}/schedstat", "rb", buffering=0) as account:
        while True:
            waited_s = processor_wait_s(account)
            due = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            late = max(time.perf_counter() - due, 0.0)
            gaps.append(Gap(late, max(late - (processor_wait_s(account) - waited_s), 0.0)))


def processor_wait_s(account: BinaryIO) -> float:
    """Seconds for which a thread was ready to run and no processor was free, from the kernel's account of it."""
    return int(os.pread(account.fileno(), 100, 0).split()[1]) / 1e9
