"""How busy a server was, by a clock that a test sets."""

import asyncio
from contextlib import ExitStack

import pytest

from trm_agent.verl_plugin.rollout.busy import BusyClock, Reading, counted


def test_seconds_count_once_however_many_turns_there_are_and_once_a_turn():
    now = [10.0]
    clock = BusyClock(lambda: now[0])
    now[0] = 12.0
    with ExitStack() as turns:
        turns.enter_context(clock.turn())
        now[0] = 13.0
        with clock.turn():
            now[0] = 17.0
        now[0] = 18.0
        # one turn of 6 s, and one of 4 s beside it
        assert clock.read() == Reading(18.0, 6.0, 10.0)
    now[0] = 30.0
    assert clock.read() == Reading(30.0, 6.0, 10.0)


@pytest.mark.parametrize("how", ["ends", "fails", "is cut"])
async def test_a_turn_counts_until_its_last_output_whatever_comes_of_it(how):
    now = [0.0]
    clock = BusyClock(lambda: now[0])

    async def outputs():
        now[0] = 1.0
        yield "first"
        if how == "fails":
            raise OSError
        await asyncio.sleep(0 if how == "ends" else 60)
        now[0] = 3.0
        yield "last"

    async def turn():
        return [output async for output in counted(outputs(), clock)]

    asked = asyncio.create_task(turn())
    await asyncio.sleep(0.01)
    if how == "is cut":
        asked.cancel()
    (found,) = await asyncio.gather(asked, return_exceptions=True)
    assert found == ["first", "last"] if how == "ends" else isinstance(found, OSError | asyncio.CancelledError)
    now[0] = 100.0
    assert clock.read().busy_s == (3.0 if how == "ends" else 1.0)
