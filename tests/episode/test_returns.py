"""The return of an episode: its rewards' sum, and no more than the environment allows where it was not finished."""

import math

import gymnasium
import pytest

from tests.envs.test_tool_results import Walk, walk
from tests.episode.fakes import END, FakeEnv, ScriptedGenerator, byte_tokenizer
from trm_agent.episode import ChatTokens, Episode, Limits, StopReason, run_episode
from trm_agent.episode.outcomes import OUTCOMES, Fault, Score, worth

TOKENIZER = byte_tokenizer()


async def play(env: object, *turns: str, **limits: int) -> Episode:
    """An episode of these turns."""
    generator = ScriptedGenerator(TOKENIZER, [f"{turn}{END}" for turn in turns])
    limits = {"max_turn_tokens": 400, **limits}
    return await run_episode(lambda: env, generator, ChatTokens(TOKENIZER), Limits(**limits), env_id="fake")


class Costly(Walk):
    """Each step costs 1 until the goal."""

    reward_range = (-math.inf, 1.0)
    unfinished_reward = -10.0

    def score(self, answer: str) -> float:
        return float(answer)


@pytest.mark.parametrize("outcome", OUTCOMES.values(), ids=[cause.name for cause in OUTCOMES])
def test_no_policy_gains_by_not_finishing(outcome) -> None:
    # -3 so far, and at most -10 for what the environment did not end
    if outcome.score is Score.NONE:
        assert worth(outcome, -3.0, -10.0) is None
    else:
        assert worth(outcome, -3.0, -10.0) == (-10.0 if outcome.fault is Fault.MODEL else -3.0)
        assert worth(outcome, -30.0, -10.0) == -30.0
        assert worth(outcome, 0.5) == (0.5 if outcome.score is Score.SUM else 0.0)


async def test_rewards_of_tools_add_up_in_the_loop_and_stay_in_its_record() -> None:
    episode = await play(Walk(), walk(1), walk(3))
    assert (episode.reward, episode.success, episode.stop_reason) == (1.0, True, StopReason.TERMINATED)
    assert [turn.reward for turn in episode.turns] == [0.25, 0.75]
    assert episode.turns[-1].observation == "You are at 4."
    assert episode.numbers == {"place": 4.0}


async def test_a_tools_truncation_is_the_tasks_own_end_and_no_success() -> None:
    episode = await play(Walk(), walk(3), walk(3))
    assert (episode.reward, episode.success, episode.stop_reason) == (0.75, False, StopReason.TRUNCATED)


@pytest.mark.parametrize(
    ("turns", "limits", "reason"),
    [
        (["idle", "idle"], {"max_turns": 2}, StopReason.MAX_TURNS),
        (["idle " * 50], {"max_response_tokens": 20}, StopReason.MAX_TOKENS),
        ([walk(1), walk(1)], {"max_tool_calls": 1}, StopReason.MAX_TOOL_CALLS),
        ([walk(1), "<tool_call>{"], {"max_malformed_turns": 1}, StopReason.MAX_MALFORMED_TURNS),
    ],
)
async def test_an_episode_that_a_limit_ends_is_worth_the_unfinished_reward(turns, limits, reason) -> None:
    episode = await play(Costly(), *turns, **limits)
    assert (episode.stop_reason, episode.reward, episode.success) == (reason, -10.0, False)


async def test_what_breaks_the_scorer_is_worth_no_more() -> None:
    episode = await play(Costly(), "\\boxed{x}")
    assert (episode.stop_reason, episode.reward) == (StopReason.TERMINATED, -10.0)
    assert "ValueError" in episode.scorer_error


async def test_an_environment_of_another_kind_needs_no_such_field() -> None:
    episode = await play(FakeEnv([("tool", "five")]), "call", "five")
    assert episode.reward is not None


@pytest.mark.parametrize(
    ("turns", "limit", "places", "reward"),
    [
        # two calls fit, the third of the turn does not run
        ([walk(1, 1, 1)], 2, [2], 0.5),
        ([walk(1), walk(1, 1)], 2, [1, 2], 0.5),
        # none is left
        ([walk(1), walk(1)], 1, [1, 1], 0.25),
        # the last turn's calls are held to the limit too
        (["idle", walk(1, 1)], 1, [0, 1], 0.25),
    ],
)
async def test_calls_beyond_the_limit_do_not_run(turns, limit, places, reward) -> None:
    env = Walk()
    episode = await play(gymnasium.wrappers.OrderEnforcing(env), *turns, max_tool_calls=limit, max_turns=len(turns))
    assert (episode.stop_reason, episode.success, episode.reward) == (StopReason.MAX_TOOL_CALLS, False, reward)
    assert (episode.num_tool_calls, env.place) == (limit, places[-1])
    assert [turn.num_tool_calls for turn in episode.turns] == [
        now - before for before, now in zip([0, *places], places, strict=False)
    ]
    assert not any(turn.malformed for turn in episode.turns)


async def test_a_call_that_ends_the_task_within_the_limit_ends_it_as_the_task_says() -> None:
    episode = await play(Walk(), walk(1), walk(3, 1), max_tool_calls=2)
    assert (episode.reward, episode.success, episode.stop_reason) == (1.0, True, StopReason.TERMINATED)
    episode = await play(Walk(), walk(1), walk(1), "\\boxed{x}", max_tool_calls=2)
    assert (episode.num_tool_calls, episode.stop_reason) == (2, StopReason.TERMINATED)


async def test_a_call_that_cannot_be_run_uses_up_no_call() -> None:
    wrong = walk(1).replace('"walk"', '"wlak"')
    episode = await play(Walk(), "\n".join((wrong, walk(1), wrong, walk(1))), max_tool_calls=1)
    assert (episode.num_tool_calls, episode.reward, episode.stop_reason) == (1, 0.25, StopReason.MAX_TOOL_CALLS)
    assert episode.turns[0].malformed
    assert episode.turns[0].observation.splitlines()[-1] == "Error: no tool calls are left"
