"""Hanging and raising environments: nobody else notices."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from tests.clocks import standing_s
from tests.episode.fakes import CHAT, END, TOKENIZER, FakeEnv, FakeEnvThat, Hang, ScriptedGenerator, raises, wait_until
from trm_agent.episode import EnvThreads, Limits, StopReason, run_episode

pytestmark = pytest.mark.slow


async def play(make_env, limits, threads=None, delay_s=0.0):
    generator = ScriptedGenerator(TOKENIZER, [f"call{END}"], delay_s)
    return await run_episode(make_env, generator, CHAT, limits, env_id="fake", executor=threads)


@pytest.mark.parametrize("place", ["make", "reset", "step"])
async def test_an_environment_that_hangs_is_left_behind_and_closed_when_it_returns(place):
    hang, threads, made = Hang(), EnvThreads(), []

    def make_env():
        made.append(FakeEnvThat(place, hang))
        return made[-1]

    started = time.monotonic()
    episode = await play(make_env, Limits(step_timeout_s=0.1), threads)
    assert time.monotonic() - started < 8  # a hang lasts longer
    assert (episode.stop_reason, episode.reward) == (StopReason.ENV_TIMEOUT, None)
    assert "limits.step_timeout_s = 0.1" in episode.error
    assert (threads.num_lent, threads.num_abandoned, threads.num_stuck) == (1, 1, 1)
    hang.let_go.set()
    assert await asyncio.to_thread(wait_until, lambda: threads.num_stuck == 0)
    assert made[0].closed.is_set()
    assert threads.num_abandoned == 1


async def test_an_episode_keeps_its_thread_and_leaves_it_to_the_next():
    threads, made = EnvThreads(), []

    def make_env():
        made.append(FakeEnv([("tool", "four"), ("tool", "five")]))
        return made[-1]

    for _ in range(3):
        await play(make_env, Limits(), threads)
        assert await asyncio.to_thread(wait_until, lambda: len(threads._idle) == 1)
    assert threads.num_lent == 3
    assert len(made[0].threads) == 1
    assert made[0].threads == made[1].threads == made[2].threads
    await asyncio.gather(*(play(make_env, Limits(), threads) for _ in range(4)))
    assert len(set.union(*(env.threads for env in made[3:]))) == 4


async def test_a_thread_that_hung_serves_again():
    hang, threads = Hang(), EnvThreads()
    await play(lambda: FakeEnvThat("step", hang), Limits(step_timeout_s=0.1), threads)
    (stuck,) = threads._abandoned
    hang.let_go.set()
    assert await asyncio.to_thread(wait_until, lambda: threads.num_stuck == 0)
    assert threads.lend() is stuck


def test_a_forked_process_has_threads_of_its_own():
    threads = EnvThreads()
    asyncio.run(play(FakeEnv, Limits(), threads))
    assert wait_until(lambda: len(threads._idle) == 1)
    child = os.fork()
    if not child:
        signal.alarm(60)  # a child that hangs is killed, and its exit status is not 0
        episode = asyncio.run(play(FakeEnv, Limits(step_timeout_s=20), threads))
        os._exit(0 if episode.success else 1)
    assert os.waitpid(child, 0)[1] == 0


async def test_a_close_that_hangs_does_not_cost_the_episode():
    hang, threads = Hang(), EnvThreads()
    started = time.monotonic()
    episode = await play(lambda: FakeEnvThat("close", hang), Limits(step_timeout_s=0.5), threads)
    assert time.monotonic() - started < 8  # a hang lasts longer
    assert (episode.stop_reason, episode.success) == (StopReason.TERMINATED, True)
    assert threads.num_abandoned == 1
    hang.let_go.set()


async def test_a_slow_engine_times_out_by_turn_or_by_episode():
    by_turn = await play(FakeEnv, Limits(generate_timeout_s=0.05), delay_s=30)
    assert (by_turn.stop_reason, by_turn.reward) == (StopReason.GENERATOR_TIMEOUT, None)
    assert "limits.generate_timeout_s = 0.05" in by_turn.error
    by_episode = await play(FakeEnv, Limits(episode_timeout_s=0.1), delay_s=30)
    assert (by_episode.stop_reason, by_episode.reward) == (StopReason.EPISODE_TIMEOUT, None)
    assert "limits.episode_timeout_s = 0.1" in by_episode.error
    assert by_episode.timings["generate"] >= 0.05


async def test_many_short_waits_add_up_to_the_episodes_limit():
    endless = [("tool", "five")] * 1000
    episode = await play(lambda: FakeEnv(endless), Limits(max_turns=1000, episode_timeout_s=0.2), delay_s=0.02)
    assert episode.stop_reason is StopReason.EPISODE_TIMEOUT
    assert 1 <= episode.num_turns <= 10  # 0.2 s hold ten waits of 0.02 s


async def test_an_engine_that_refuses_to_be_cancelled_does_not_hold_the_episode():
    released = asyncio.Event()

    class FakeStubbornEngine:
        async def generate(self, prompt_ids, max_tokens):
            while not released.is_set():
                try:
                    await asyncio.wait_for(released.wait(), 10)
                except asyncio.CancelledError:
                    continue

    limits = Limits(generate_timeout_s=0.05)
    started = time.monotonic()
    episode = await run_episode(FakeEnv, FakeStubbornEngine(), CHAT, limits, env_id="fake")
    assert time.monotonic() - started < 8  # a hang lasts longer
    assert episode.stop_reason is StopReason.GENERATOR_TIMEOUT
    released.set()
    await asyncio.sleep(0.01)


async def test_64_episodes_of_which_some_raise_and_some_hang():
    hang, threads = Hang(), EnvThreads()

    def make_env(number):
        if number % 8 == 0:
            return FakeEnvThat("step", raises(RuntimeError("fell over")))
        if number % 8 == 1:
            return FakeEnvThat("step", hang)
        # A blocking step: on the event loop, the 48 of them would take 2.4 s and be seen by the ticker.
        return FakeEnvThat("step", lambda: time.sleep(0.05), answers=[("tool", "five")])

    blocked, busy = [], []

    async def tick():
        last = standing_s(), time.thread_time()
        while True:
            await asyncio.sleep(0.005)
            now = standing_s(), time.thread_time()
            blocked.append(now[0] - last[0])
            busy.append(now[1] - last[1])
            last = now

    async def play_all(numbers, limits, threads):
        started = time.monotonic()
        episodes = await asyncio.gather(*(play(lambda n=n: make_env(n), limits, threads) for n in numbers))
        return episodes, time.monotonic() - started

    _, without_s = await play_all([number for number in range(64) if number % 8 > 1], Limits(), EnvThreads())
    ticker = asyncio.create_task(tick())
    limits = Limits(step_timeout_s=min(10.0, 1 + 2 * without_s))  # above what those take that do not hang
    episodes, elapsed = await play_all(range(64), limits, threads)
    ticker.cancel()
    hang.let_go.set()

    for number, episode in enumerate(episodes):
        if number % 8 == 0:
            assert (episode.stop_reason, episode.reward) == (StopReason.TERMINATED, 0.0)
            assert "fell over" in episode.scorer_error
        elif number % 8 == 1:
            assert (episode.stop_reason, episode.reward) == (StopReason.ENV_TIMEOUT, None)
        else:
            assert (episode.stop_reason, episode.success, episode.reward) == (StopReason.TERMINATED, True, 0.5)
            assert episode.timings["total"] < limits.step_timeout_s, "a healthy episode waited for a hanging one"
    assert (threads.num_lent, threads.num_abandoned) == (64, 8)
    assert elapsed < 2 * limits.step_timeout_s
    # Hanging on the event loop would hold it for 20 s.
    assert sum(each for each in blocked if each > 0.03) < 1, f"longest times {sorted(blocked)[-20:]}"
    assert max(blocked) < 0.5
    assert max(busy) < 0.5


def test_a_hanging_environment_does_not_keep_the_process_alive():
    program = """
    import asyncio, time
    from trm_agent.episode import EnvThreads, Limits, run_episode

    class HangingEnv:
        def __init__(self):
            time.sleep(1000)

    episode = asyncio.run(run_episode(HangingEnv, None, None, Limits(step_timeout_s=0.1), env_id="fake"))
    print(episode.stop_reason)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "env_timeout\n"
    assert "Traceback" not in done.stderr


def test_the_package_imports_no_engine_and_no_framework():
    program = """
    import sys
    import trm_agent.episode
    print([name for name in ("torch", "transformers", "tokenizers", "verl", "vllm", "ray") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=30)
    assert done.stdout == "[]\n"
