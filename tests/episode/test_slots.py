"""The number of calls into environments that run at one time."""

import asyncio
import gc
import time
from collections.abc import Iterator

import pytest

from trm_agent.episode.slots import GC_THRESHOLD, RunSlots, tune_garbage_collection


async def most_at_once(slots: RunSlots, num_calls: int, seconds: float) -> int:
    """Return how many of this many calls hold a slot together."""
    inside = most = 0

    async def call() -> None:
        nonlocal inside, most
        async with slots.slot():
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(seconds)
            inside -= 1

    await asyncio.gather(*(call() for _ in range(num_calls)))
    return most


async def test_short_calls_take_turns() -> None:
    assert await most_at_once(RunSlots(4, hold_s=60), 40, 0.001) == 4


async def test_a_call_that_waits_for_something_else_holds_nobody_up() -> None:
    started = time.monotonic()
    assert await most_at_once(RunSlots(4, hold_s=0.01), 40, 1.0) == 40
    # 40 calls of a second, four at a time, would take ten
    assert time.monotonic() - started < 5


async def test_a_slot_comes_back_once_whatever_becomes_of_the_call() -> None:
    slots = RunSlots(1, hold_s=0.2)

    async def fails_after(seconds: float) -> None:
        async with slots.slot():
            await asyncio.sleep(seconds)
            raise KeyError

    for seconds in (0.0, 0.3):
        with pytest.raises(KeyError):
            await fails_after(seconds)
    assert await most_at_once(RunSlots(1, hold_s=60), 3, 0.001) == 1
    assert await most_at_once(slots, 3, 0.001) == 1


def test_each_event_loop_has_slots_of_its_own() -> None:
    slots = RunSlots(2)
    for _ in range(2):
        assert asyncio.run(most_at_once(slots, 6, 0.001)) == 2


@pytest.fixture
def untuned() -> Iterator[None]:
    """Garbage collection as Python starts with it, and as it was before afterwards."""
    before = gc.get_threshold()
    gc.unfreeze()
    tune_garbage_collection.cache_clear()
    gc.set_threshold(700, 10, 10)
    yield
    gc.unfreeze()
    tune_garbage_collection.cache_clear()
    gc.set_threshold(*before)


@pytest.mark.slow
@pytest.mark.usefixtures("untuned")
def test_what_is_loaded_is_out_of_later_collections() -> None:
    loaded = [[]]
    tune_garbage_collection()
    assert gc.get_freeze_count() > 10_000
    assert not any(each is loaded for each in gc.get_objects())


@pytest.mark.slow
@pytest.mark.usefixtures("untuned")
@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ((700, 10, 10), GC_THRESHOLD),
        ((0, 10, 10), (0, 10, 10)),
        ((50_000, 10, 10), (50_000, 10, 10)),
        ((700, 10, 1000), (GC_THRESHOLD[0], 10, 1000)),
    ],
)
def test_collections_come_less_often_and_never_more_often(
    own: tuple[int, int, int], expected: tuple[int, int, int]
) -> None:
    gc.set_threshold(*own)
    tune_garbage_collection()
    assert gc.get_threshold() == expected
