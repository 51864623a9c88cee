"""One call into an environment, and one wait: slots come back, what is left behind is cancelled."""

import asyncio
import threading

import pytest

from tests.episode.fakes import FakeEnv, FakeEnvThat
from tests.episode.test_clocks import FakeToolTime
from trm_agent.episode import EnvThreads, Generation, Limits
from trm_agent.episode.env_runner import EnvRunner, TimedOut, within
from trm_agent.episode.generation import checked_generation
from trm_agent.episode.slots import RunSlots


@pytest.mark.parametrize("timeout_s", [0.5, 5.0])
async def test_a_call_that_waits_gives_its_slot_to_others_however_little_time_it_has(timeout_s):
    threads, clock, is_other_done = EnvThreads(), FakeToolTime(), threading.Event()
    threads.slots = RunSlots(1, hold_s=0.6)
    waiting = FakeEnvThat("step", lambda: clock.wait_for(is_other_done.wait), answers=[("tool", "five")])
    waiting.tool_time = clock
    runners = [EnvRunner(lambda env=env: env, Limits(), threads) for env in (waiting, FakeEnv())]
    for runner in runners:
        await runner.make(5)
        await runner.reset(0, {}, 5)
    slow = asyncio.create_task(runners[0].step("call", timeout_s))
    await asyncio.sleep(0)
    assert (await runners[1].step("call", 5)).success
    assert not slow.done()
    is_other_done.set()
    assert (await slow).observation == "five"
    for runner in runners:
        await runner.close(5)
    assert not threads.slots._places.semaphore().locked()


async def test_a_slot_comes_back_from_a_call_that_raises_hangs_or_is_cancelled():
    threads = EnvThreads()
    threads.slots = RunSlots(1, hold_s=60)

    async def call(job, timeout_s):
        runner = EnvRunner(FakeEnv, Limits(), threads)
        try:
            await runner._call("step", job, timeout_s)
        finally:
            runner.release()

    with pytest.raises(Exception, match="step failed: KeyError"):
        await call(lambda: {}["x"], 5)
    is_over = threading.Event()
    with pytest.raises(TimedOut):
        await call(is_over.wait, 0.02)
    cancelled = asyncio.create_task(call(is_over.wait, 60))
    await asyncio.sleep(0.01)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert threads.num_abandoned == 1
    is_over.set()
    assert not threads.slots._places.semaphore().locked()


async def test_a_wait_ends_as_what_it_waits_for_and_leaves_nothing_behind():
    ended = []

    async def work(seconds, error=None):
        try:
            await asyncio.sleep(seconds)
            if error:
                raise error
            return "done"
        finally:
            ended.append(seconds)

    assert await within(work(0), 5) == "done"
    with pytest.raises(KeyError):
        await within(work(0.001, KeyError("x")), 5)
    with pytest.raises(TimedOut):
        await within(work(10), 0.01)
    outer = asyncio.create_task(within(work(11), 5))
    await asyncio.sleep(0.01)
    outer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await outer
    inner = asyncio.create_task(work(12))
    asyncio.get_running_loop().call_later(0.01, inner.cancel)
    with pytest.raises(RuntimeError, match="cancelled from outside"):
        await within(inner, 5)
    await asyncio.sleep(0)
    assert ended == [0, 0.001, 10, 11, 12]
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_the_first_log_prob_that_is_not_finite_is_named(bad):
    with pytest.raises(ValueError, match=f"sampled token 1 is {bad}"):
        checked_generation(Generation([1, 2, 3], [-0.5, bad, bad], True), 3)
