"""Environments, engines and templates that fail: the episode says so and nothing is raised."""

import asyncio
import json
import math

import pytest

from tests.episode.fakes import CHAT, END, ENDLESS, FakeEnv, FakeEnvThat, play, raises, scripted, wait_until
from trm_agent.episode import EnvThreads, Generation, Limits, StopReason, episode_record, run_episode
from trm_envs import InfrastructureError, VerifierError

ERRORS = [KeyError("lost"), SystemExit(3), StopIteration(), TimeoutError("mine"), RecursionError("deep"), MemoryError()]


@pytest.mark.parametrize("place", ["make", "reset"])
@pytest.mark.parametrize("error", ERRORS)
async def test_an_environment_that_raises_before_the_model_speaks_ends_its_episode_only(place, error):
    episode = await run_episode(
        lambda: FakeEnvThat(place, raises(error)), scripted(f"call{END}"), CHAT, Limits(), env_id="fake"
    )
    assert (episode.stop_reason, episode.reward, episode.success) == (StopReason.ENV_ERROR, None, False)
    assert f"env.{place} failed: {type(error).__name__}" in episode.error
    assert "fakes.py" in episode.error
    assert (episode.num_turns, episode.scorer_error) == (0, None)


@pytest.mark.parametrize("error", [*ERRORS, OSError("File name too long"), ValueError("invalid literal: \ud800")])
async def test_an_environment_that_raises_on_the_models_text_scores_it_0(error, caplog):
    env = FakeEnvThat("step", raises(error), answers=ENDLESS)
    episode = await play(env, scripted(f"call{END}"))
    assert (episode.stop_reason, episode.reward, episode.success) == (StopReason.TERMINATED, 0.0, False)
    assert f"env.step failed: {type(error).__name__}" in episode.scorer_error
    assert (episode.error, episode.is_infrastructure_failure, episode.num_turns) == (None, False, 1)
    assert "scores 0" in caplog.text
    json.dumps(episode_record(episode)).encode()


async def test_an_error_after_rewards_takes_them_and_leaves_penalties():
    class FakeLater(FakeEnv):
        def step(self, action):
            if self.seen:
                raise ValueError("too late")
            return super().step(action)

    for reward, kept in [(0.5, 0.0), (-0.5, -0.5)]:
        episode = await play(FakeLater(ENDLESS, reward=reward), scripted(f"call{END}"))
        assert (episode.num_turns, episode.turns[0].reward, episode.reward) == (2, reward, kept)


@pytest.mark.parametrize("place", ["make", "reset", "step"])
async def test_an_environment_says_what_is_infrastructure(place):
    episode = await run_episode(
        lambda: FakeEnvThat(place, raises(InfrastructureError("the disk is full"))),
        scripted(f"call{END}"),
        CHAT,
        Limits(),
        env_id="fake",
    )
    assert (episode.stop_reason, episode.reward, episode.scorer_error) == (StopReason.ENV_ERROR, None, None)
    assert "the disk is full" in episode.error


async def test_a_verifier_that_cannot_decide_is_an_outcome_of_its_own():
    episode = await play(FakeEnvThat("step", raises(VerifierError("a hang"))), scripted(f"call{END}"))
    assert (episode.stop_reason, episode.reward) == (StopReason.VERIFIER_ERROR, None)
    assert episode.is_infrastructure_failure
    assert "a hang" in episode.error


async def test_an_error_whose_message_cannot_be_printed_is_still_reported():
    class Unprintable(Exception):
        def __str__(self):
            raise RuntimeError

    episode = await play(FakeEnvThat("reset", raises(Unprintable())), scripted(f"call{END}"))
    assert (episode.stop_reason, "Unprintable" in episode.error) == (StopReason.ENV_ERROR, True)
    episode = await play(FakeEnvThat("step", raises(Unprintable())), scripted(f"call{END}"))
    assert (episode.reward, "Unprintable" in episode.scorer_error) == (0.0, True)


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
        ({1: 10**400}, "int too large to convert to float"),
        ({4: {"num_tool_calls": 0, "malformed": False, "role": "tool", "numbers": {"x": "y"}}}, "could not convert"),
    ],
)
async def test_a_step_that_breaks_the_contract_scores_0(change, message):
    class FakeBroken(FakeEnv):
        def step(self, action):
            answer = list(super().step(action))
            for position, value in change.items():
                answer[position] = value
            return tuple(answer)

    episode = await play(FakeBroken(ENDLESS), scripted(f"call{END}"))
    assert (episode.stop_reason, episode.reward, episode.success) == (StopReason.TERMINATED, 0.0, False)
    assert message in episode.scorer_error


@pytest.mark.parametrize(("reward", "kept"), [(1e308, 0.0), (-1e308, -1e308)])
async def test_rewards_that_overflow_together_score_0(reward, kept):
    episode = await play(FakeEnv(ENDLESS, reward=reward), scripted(f"call{END}"))
    assert (episode.stop_reason, episode.reward, episode.num_turns) == (StopReason.TERMINATED, kept, 2)
    assert "the sum of the rewards is" in episode.scorer_error


async def test_what_the_environments_scorer_raised_is_told_in_info():
    class FakeTold(FakeEnv):
        def step(self, action):
            info = {"num_tool_calls": 0, "malformed": False, "role": "user", "scorer_error": "ValueError: \ud800"}
            return "", 0.0, True, False, {**info, "success": False}

    episode = await play(FakeTold(), scripted(f"call{END}"))
    assert (episode.stop_reason, episode.reward, episode.scorer_error) == ("terminated", 0.0, "ValueError: \\ud800")


HOSTILE = "\x1b]0;owned\x07\x1b[2J\n2026-01-01 12:00:00 INFO trm_agent: success 100 %\r\u202e\x85\u2028end"


@pytest.mark.parametrize("is_raised", [True, False])
async def test_the_models_text_neither_steers_a_terminal_nor_forges_a_line_of_the_log(caplog, is_raised):
    class FakeThatQuotes(FakeEnv):
        def step(self, action):
            if is_raised:
                raise ValueError(f"unknown move {HOSTILE}")
            info = {"num_tool_calls": 0, "malformed": False, "role": "user", "scorer_error": f"ValueError: {HOSTILE}"}
            return "", 0.0, True, False, {**info, "success": False}

    episode = await play(FakeThatQuotes(), scripted(f"call{END}"))
    assert episode.scorer_error.isprintable()
    assert "success 100 %" in episode.scorer_error
    (told,) = [record.getMessage() for record in caplog.records if "scores 0" in record.getMessage()]
    assert told.isprintable()


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
        tool_schemas = ({"type": {1, 2}},)  # a set is not JSON

    episode = await play(FakeEnvWithTools(), scripted(f"call{END}"))
    assert (episode.stop_reason, episode.reward) == (StopReason.CHAT_ERROR, None)
    assert "template" in episode.error


class FakeChat:
    """The real one, of which one method fails on some text."""

    def __init__(self, method, fails):
        self.method, self.fails = method, fails

    def __getattr__(self, name):
        real = getattr(CHAT, name)
        if name != self.method:
            return real

        def broken(*args, **kwargs):
            if self.fails(*args):
                raise ValueError("this template chokes")
            return real(*args, **kwargs)

        return broken


@pytest.mark.parametrize(
    ("method", "fails"),
    [
        ("decode", lambda ids: True),
        ("fit", lambda text, limit: "five" in text),
        ("observation", lambda role, text: "five" in text),
    ],
)
async def test_text_of_the_models_making_that_cannot_be_shown_voids_nothing(method, fails):
    env = FakeEnv([("tool", "five")])
    generator = scripted(f"call{END}")
    episode = await run_episode(lambda: env, generator, FakeChat(method, fails), Limits(), env_id="fake")
    assert (episode.stop_reason, episode.success, episode.num_turns) == (StopReason.TERMINATED, True, 2)
    shown = "five" if method == "decode" else "Error: this output cannot be shown."
    assert episode.turns[0].observation == shown
    assert ("\N{REPLACEMENT CHARACTER}" in env.seen) == (method == "decode")


async def test_a_template_that_shows_no_message_at_all_ends_the_episode():
    chat = FakeChat("observation", lambda role, text: True)
    episode = await run_episode(
        lambda: FakeEnv([("tool", "five")]), scripted(f"call{END}"), chat, Limits(), env_id="fake"
    )
    assert (episode.stop_reason, episode.reward) == (StopReason.CHAT_ERROR, None)


async def test_what_the_prompt_opened_belongs_to_the_turn_that_the_environment_sees():
    env, chat = FakeEnv(), FakeChat("", None)
    chat.turn_prefix = "<think>\n"
    episode = await run_episode(lambda: env, scripted(f"call{END}"), chat, Limits(), env_id="fake")
    assert (env.seen, episode.turns[0].text) == (["<think>\ncall"], "call")


async def test_a_process_without_threads_left_is_no_fault_of_the_models():
    class FakeThreads(EnvThreads):
        def lend(self):
            raise RuntimeError("can't start new thread")

    episode = await play(FakeEnv(), scripted(f"call{END}"), executor=FakeThreads())
    assert (episode.stop_reason, episode.reward) == (StopReason.ENV_ERROR, None)


async def test_cancellation_reaches_the_caller_and_the_environment_is_closed():
    env = FakeEnv()
    task = asyncio.create_task(play(env, scripted(f"call{END}", delay_s=30)))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(wait_until, env.closed.is_set)
