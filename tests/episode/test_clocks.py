"""The clocks: programs' time is the model's, waits are nobody's, the rest is a backstop."""

import asyncio
import time
from types import SimpleNamespace

import pytest

from tests.episode.fakes import (
    CHAT,
    END,
    ENDLESS,
    TOKENIZER,
    FakeEnv,
    FakeEnvThat,
    Hang,
    ScriptedGenerator,
    play,
    scripted,
)
from trm_agent.episode import EnvThreads, Generation, Limits, StopReason, run_episode
from trm_agent.episode.slots import RunSlots
from trm_agent.episode.step_time import StepTime, tool_clock


class FakeToolTime:
    """An environment's own clock, set by the test."""

    def __init__(self, used_up=False):
        self.limits, self.used_up = None, used_up
        self.wait_began, self.waited_before = None, 0.0

    def set_limits(self, turn_s, episode_s):
        self.limits = (turn_s, episode_s)

    def used_s(self):
        return 0.0

    def is_used_up(self):
        return self.used_up

    def waited_s(self):
        return self.waited_before + (0.0 if self.wait_began is None else time.monotonic() - self.wait_began)

    def wait(self, seconds):
        self.wait_for(lambda: time.sleep(seconds))

    def wait_for(self, wait):
        self.wait_began = time.monotonic()
        wait()
        self.waited_before, self.wait_began = self.waited_s(), None


def env_with(clock, deed, **kwargs):
    env = FakeEnvThat("step", deed, **kwargs)
    env.tool_time = clock
    return env


async def test_the_environments_own_clock_gets_the_limits_before_it_is_reset():
    clock = FakeToolTime()

    class FakeLooks(FakeEnv):
        tool_time = clock

        def reset(self, **kwargs):
            self.at_reset = clock.limits
            return super().reset(**kwargs)

    env = FakeLooks()
    await play(env, scripted(f"call{END}"), Limits(tool_time_s=3, episode_tool_time_s=4))
    assert env.at_reset == (3, 4)


async def test_a_step_that_says_that_time_is_up_ends_the_episode_with_0():
    class FakeUsedUp(FakeEnv):
        def step(self, action):
            if not self.seen:
                return super().step(action)
            info = {"num_tool_calls": 1, "malformed": False, "role": "tool"}
            return "time limit exceeded", 0.0, False, True, {**info, "success": False, "stop_reason": "max_tool_time"}

    episode = await play(FakeUsedUp(ENDLESS), scripted(f"call{END}"))
    assert (episode.stop_reason, episode.reward, episode.success) == (StopReason.MAX_TOOL_TIME, 0.0, False)
    assert episode.turns[0].reward == 0.25
    assert (episode.error, episode.turns[-1].observation) == (None, "time limit exceeded")


@pytest.mark.parametrize(
    ("used_up", "reason", "reward"),
    [(True, StopReason.MAX_TOOL_TIME, 0.0), (False, StopReason.ENV_TIMEOUT, None)],
)
async def test_a_step_that_hangs_is_the_models_if_its_programs_used_up_their_time(used_up, reason, reward):
    hang = Hang()
    episode = await play(
        env_with(FakeToolTime(used_up), hang), scripted(f"call{END}"), Limits(step_timeout_s=0.1, episode_timeout_s=9)
    )
    assert (episode.stop_reason, episode.reward) == (reason, reward)
    hang.let_go.set()


async def test_a_hang_of_the_models_is_the_models_also_by_the_episodes_clock():
    hang = Hang()
    episode = await play(
        env_with(FakeToolTime(True), hang), scripted(f"call{END}"), Limits(step_timeout_s=9, episode_timeout_s=0.2)
    )
    assert (episode.stop_reason, episode.reward) == (StopReason.MAX_TOOL_TIME, 0.0)
    hang.let_go.set()


async def test_without_a_clock_of_its_own_an_environments_steps_count(monkeypatch):
    hang = Hang()
    episode = await play(FakeEnvThat("step", hang), scripted(f"call{END}"), Limits(tool_time_s=0.1, step_timeout_s=0.2))
    assert (episode.stop_reason, episode.reward) == (StopReason.MAX_TOOL_TIME, 0.0)
    hang.let_go.set()
    steps = []
    monkeypatch.setattr("trm_agent.episode.step_time.time", SimpleNamespace(monotonic=lambda: 0.05 * len(steps)))
    slow = FakeEnvThat("step", lambda: steps.append(1), answers=ENDLESS)
    episode = await play(slow, scripted(f"call{END}"), Limits(episode_tool_time_s=0.12))
    # each step takes 0.05 s: the third goes beyond 0.12
    assert (episode.stop_reason, episode.reward, episode.num_turns) == (StopReason.MAX_TOOL_TIME, 0.0, 3)


async def test_a_task_that_its_environment_ends_is_over_however_long_it_took():
    slow = FakeEnvThat("step", lambda: time.sleep(0.05))
    episode = await play(slow, scripted(f"call{END}"), Limits(tool_time_s=0.01, episode_tool_time_s=0.01))
    assert (episode.stop_reason, episode.success) == (StopReason.TERMINATED, True)


@pytest.mark.slow
@pytest.mark.parametrize("limits", [{"step_timeout_s": 0.5}, {"episode_timeout_s": 0.55}])
async def test_a_wait_in_the_sandbox_stops_the_steps_and_the_episodes_clock(limits):
    clock = FakeToolTime()
    env = env_with(clock, lambda: clock.wait(0.6), answers=[("tool", "five")])
    episode = await play(env, scripted(f"call{END}"), Limits(**limits))
    assert (episode.stop_reason, episode.success) == (StopReason.TERMINATED, True)
    assert episode.timings["waited"] >= 1.2


async def test_a_hang_after_a_wait_is_still_found():
    clock, hang = FakeToolTime(), Hang()

    def deed():
        clock.wait(0.2)
        hang()

    started = time.monotonic()
    episode = await play(env_with(clock, deed), scripted(f"call{END}"), Limits(step_timeout_s=0.2))
    assert episode.stop_reason is StopReason.ENV_TIMEOUT
    assert 0.4 <= time.monotonic() - started < 10  # it hangs for 20 s
    hang.let_go.set()


async def test_a_wait_that_never_ends_is_something_broken():
    clock, hang = FakeToolTime(), Hang()

    def wait():
        clock.wait_began = time.monotonic()
        hang()

    started = time.monotonic()
    limits = Limits(step_timeout_s=0.1, episode_timeout_s=0.3)
    episode = await play(env_with(clock, wait), scripted(f"call{END}"), limits)
    assert (episode.stop_reason, episode.reward) == (StopReason.ENV_TIMEOUT, None)
    assert 0.4 <= time.monotonic() - started < 10  # it waits for 20 s
    hang.let_go.set()


async def test_a_wait_among_the_environments_stops_the_episodes_clock():
    threads = EnvThreads()
    threads.slots = RunSlots(1, hold_s=60)
    slow = [FakeEnvThat("reset", lambda: time.sleep(0.1)) for _ in range(6)]
    limits = Limits(episode_timeout_s=0.5)
    episodes = await asyncio.gather(*(play(env, scripted(f"call{END}"), limits, executor=threads) for env in slow))
    assert {episode.stop_reason for episode in episodes} == {StopReason.TERMINATED}
    assert max(episode.timings["waited"] for episode in episodes) >= 0.5


class FakeLateEngine:
    """Is late for the turns of these numbers."""

    def __init__(self, late):
        self.late, self.num_calls, self.real = late, 0, ScriptedGenerator(TOKENIZER, [f"call{END}"])

    async def generate(self, prompt_ids, max_tokens) -> Generation:
        self.num_calls += 1
        if self.num_calls in self.late:
            await asyncio.sleep(30)
        return await self.real.generate(prompt_ids, max_tokens)


@pytest.mark.slow
async def test_a_late_turn_is_tried_once_more_and_charged_to_nobody(caplog):
    env, engine = FakeEnv([("tool", "five")] * 2), FakeLateEngine({1, 3, 5})
    limits = Limits(generate_timeout_s=0.4, episode_timeout_s=0.8)
    episode = await play(env, engine, limits)
    assert (episode.stop_reason, episode.success, engine.num_calls) == (StopReason.TERMINATED, True, 6)
    # the same context both times
    assert len(engine.real.calls) == 3
    assert "tried once more" in caplog.text


async def test_a_turn_that_is_late_twice_is_infrastructure_and_tells_its_length():
    engine = FakeLateEngine({2, 3})
    episode = await play(FakeEnv(ENDLESS), engine, Limits(generate_timeout_s=0.25, max_turn_tokens=77))
    assert (episode.stop_reason, episode.reward) == (StopReason.GENERATOR_TIMEOUT, None)
    assert (episode.late_turn_tokens, episode.num_turns, engine.num_calls) == (77, 1, 3)
    assert "(twice)" in episode.error


async def test_an_engine_that_raises_has_one_try():
    class FakeRaises:
        num_calls = 0

        async def generate(self, prompt_ids, max_tokens):
            self.num_calls += 1
            raise OSError("the server is closed")

    engine = FakeRaises()
    episode = await play(FakeEnv(), engine)
    assert (episode.stop_reason, engine.num_calls) == (StopReason.GENERATOR_ERROR, 1)


def test_a_clock_is_the_environments_if_it_is_one():
    env = FakeEnv()
    assert isinstance(tool_clock(env), StepTime)
    env.tool_time = 3.5
    assert isinstance(tool_clock(env), StepTime)
    env.tool_time = clock = FakeToolTime()
    assert tool_clock(env) is clock


async def test_an_environment_whose_clock_cannot_be_read_is_infrastructure():
    class FakeBrokenClock(FakeToolTime):
        def set_limits(self, turn_s, episode_s):
            raise KeyError("clock")

    env = FakeEnv()
    env.tool_time = FakeBrokenClock()
    episode = await run_episode(lambda: env, scripted(f"call{END}"), CHAT, Limits(), env_id="fake")
    assert episode.stop_reason is StopReason.ENV_ERROR
    assert env.closed.wait(1)
