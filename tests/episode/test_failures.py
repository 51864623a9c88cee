"""Environments, engines and templates that fail: the episode says so and nothing is raised."""

import asyncio
import math

import pytest

from tests.episode.fakes import CHAT, END, ENDLESS, FakeEnv, FakeEnvThat, play, raises, scripted, wait_until
from trm_agent.episode import Generation, Limits, StopReason, run_episode
from trm_envs import VerifierError


@pytest.mark.parametrize("place", ["make", "reset", "step"])
@pytest.mark.parametrize("error", [KeyError("lost"), SystemExit(3), StopIteration(), TimeoutError("mine")])
async def test_an_environment_that_raises_ends_its_episode_only(place, error):
    episode = await run_episode(
        lambda: FakeEnvThat(place, raises(error)), scripted(f"call{END}"), CHAT, Limits(), env_id="fake"
    )
    assert (episode.stop_reason, episode.reward, episode.success) == (StopReason.ENV_ERROR, None, False)
    assert f"env.{place} failed: {type(error).__name__}" in episode.error
    assert "fakes.py" in episode.error
    assert episode.num_turns == (place == "step")


async def test_a_verifier_that_cannot_decide_is_an_outcome_of_its_own():
    episode = await play(FakeEnvThat("step", raises(VerifierError("a hang"))), scripted(f"call{END}"))
    assert (episode.stop_reason, episode.reward) == (StopReason.VERIFIER_ERROR, None)
    assert episode.is_infrastructure_failure
    assert "a hang" in episode.error


async def test_an_error_whose_message_cannot_be_printed_is_still_reported():
    class Unprintable(Exception):
        def __str__(self):
            raise RuntimeError

    episode = await play(FakeEnvThat("step", raises(Unprintable())), scripted(f"call{END}"))
    assert (episode.stop_reason, "Unprintable" in episode.error) == (StopReason.ENV_ERROR, True)


async def test_a_close_that_raises_does_not_cost_the_episode(caplog):
    episode = await play(FakeEnvThat("close", raises(ValueError("stuck door"))), scripted(f"call{END}"))
    assert (episode.stop_reason, episode.success) == (StopReason.TERMINATED, True)
    assert "stuck door" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({1: math.nan}, "the reward is nan"),
        ({1: -math.inf}, "the reward is -inf"),
        ({1: "1.0"}, "the reward is '1.0'"),
        ({1: None}, "the reward is None"),
        ({0: 3}, "the observation of step is 3"),
        ({4: {"num_tool_calls": 0, "malformed": False}}, "role"),
        ({4: {"num_tool_calls": 0, "malformed": False, "role": "assistant"}}, "'assistant'"),
        ({4: {"num_tool_calls": "1", "malformed": False, "role": "tool"}}, "num_tool_calls"),
        ({2: True}, "info['success'] at the end"),
    ],
)
async def test_a_step_that_breaks_the_contract_is_an_environment_error(change, message):
    class FakeBroken(FakeEnv):
        def step(self, action):
            answer = list(super().step(action))
            for position, value in change.items():
                answer[position] = value
            return tuple(answer)

    episode = await play(FakeBroken(ENDLESS), scripted(f"call{END}"))
    assert (episode.stop_reason, episode.reward) == (StopReason.ENV_ERROR, None)
    assert message in episode.error


async def test_rewards_that_overflow_together_are_an_environment_error():
    episode = await play(FakeEnv(ENDLESS, reward=1e308), scripted(f"call{END}"))
    assert (episode.stop_reason, episode.reward, episode.num_turns) == (StopReason.ENV_ERROR, None, 2)


class FakeEngine:
    """Calls a function of the turn's number, which may be a coroutine function."""

    def __init__(self, answer):
        self.answer, self.num_calls = answer, 0

    async def generate(self, prompt_ids, max_tokens):
        self.num_calls += 1
        result = self.answer(self.num_calls)
        return await result if asyncio.iscoroutine(result) else result


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Generation([6, 7], [-0.1], True), "1 log-probs for 2 tokens"),
        (Generation([6], [math.nan], True), "log-prob of sampled token 0 is nan"),
        (Generation([], [], True), "returned no token"),
        (Generation([5] * 9, [-0.1] * 9, False), "returned 9 tokens, max_tokens was 8"),
        (Generation(["x"], [-0.1], True), "invalid literal"),
        (None, "returned a NoneType"),
    ],
)
async def test_an_engine_whose_answer_does_not_fit_ends_the_episode(bad, message):
    good = Generation([6, CHAT.end_of_turn_id], [-0.1, -0.2], True)
    engine = FakeEngine(lambda call: good if call == 1 else bad)
    episode = await play(FakeEnv(ENDLESS), engine, Limits(max_turn_tokens=8))
    assert (episode.stop_reason, episode.reward) == (StopReason.GENERATOR_ERROR, None)
    assert message in episode.error
    assert "turn 2" in episode.error
    # What was sampled before is kept, and the observation that nobody answered is not.
    assert episode.response_ids == [6, CHAT.end_of_turn_id]


async def test_an_engine_that_raises_or_is_cancelled_ends_the_episode():
    async def cancelled():
        raise asyncio.CancelledError

    for deed, message in [(lambda _: 1 / 0, "ZeroDivisionError"), (lambda _: cancelled(), "cancelled from outside")]:
        episode = await play(FakeEnv(), FakeEngine(deed))
        assert (episode.stop_reason, message in episode.error) == (StopReason.GENERATOR_ERROR, True)


async def test_a_template_that_fails_ends_the_episode():
    class FakeEnvWithTools(FakeEnv):
        tool_schemas = ({"type": {1, 2}},)  # a set is no JSON

    episode = await play(FakeEnvWithTools(), scripted(f"call{END}"))
    assert (episode.stop_reason, episode.reward) == (StopReason.CHAT_ERROR, None)
    assert "template" in episode.error


async def test_cancellation_reaches_the_caller_and_the_environment_is_closed():
    env = FakeEnv()
    task = asyncio.create_task(play(env, scripted(f"call{END}", delay_s=30)))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(wait_until, env.closed.is_set)
