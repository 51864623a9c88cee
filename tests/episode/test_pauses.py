"""The engine's pauses: they count against no limit, and what hangs after one is still found."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.episode.fakes import END, TOKENIZER, FakeEnv, ScriptedGenerator, play
from trm_agent.episode import Limits, Pauses, StopReason
from trm_agent.episode.env_runner import TimedOut, within


class Paused(ScriptedGenerator):
    """A generator whose engine stands still before each turn."""

    def __init__(
        self, pauses: Pauses, pause_s: float, then: Callable[[], Awaitable[Any]] = lambda: asyncio.sleep(0)
    ) -> None:
        super().__init__(TOKENIZER, [f"call{END}"])
        self.pauses, self.pause_s, self.then = pauses, pause_s, then

    async def generate(self, prompt_ids, max_tokens):
        with self.pauses.pause():
            await asyncio.sleep(self.pause_s)
        await self.then()
        return await super().generate(prompt_ids, max_tokens)


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["generate_timeout_s", "episode_timeout_s"])
async def test_a_pause_counts_against_no_limit(limit):
    pauses = Pauses()
    # a limit that is wide for an episode without work, and shorter than the pause
    episode = await play(FakeEnv(), Paused(pauses, 4.0), Limits(**{limit: 3.0}), pauses=pauses)
    assert (episode.stop_reason, episode.success) == (StopReason.TERMINATED, True)
    assert episode.timings["paused"] >= 4.0
    assert episode.timings["generate"] < 3.0


async def test_an_episode_without_a_pause_tells_of_none():
    episode = await play(FakeEnv(), ScriptedGenerator(TOKENIZER, [f"call{END}"]))
    assert "paused" not in episode.timings


async def test_what_hangs_after_a_pause_is_still_late():
    pauses = Pauses()
    hanging = Paused(pauses, 0.2, lambda: asyncio.sleep(3600))
    episode = await play(FakeEnv(), hanging, Limits(generate_timeout_s=0.05), pauses=pauses)
    assert episode.stop_reason is StopReason.GENERATOR_TIMEOUT
    # two tries, each with a pause
    assert episode.timings["paused"] >= 0.4


async def test_a_wait_is_prolonged_by_what_was_paused_and_by_no_more():
    paused = 0.0

    async def work():
        nonlocal paused
        await asyncio.sleep(0.1)
        paused = 0.2
        await asyncio.sleep(3600)

    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(TimedOut):
        await within(work(), 0.2, lambda: paused)
    assert loop.time() - began >= 0.4


def test_pauses_add_up_and_the_present_one_counts():
    now = 10.0
    pauses = Pauses(lambda: now)
    with pauses.pause():
        now += 2.0
    now += 50.0
    assert pauses.seconds() == 2.0
    with pauses.pause():
        now += 3.0
        assert pauses.seconds() == 5.0
    assert pauses.timings() == {"paused": 5.0}
