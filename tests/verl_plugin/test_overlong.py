"""Training episodes that run out of tokens: as they are, masked, or paid less."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("verl")

from trm_agent.episode import Episode
from trm_agent.episode.outcomes import StopReason
from trm_agent.episode.types import Turn
from trm_agent.runs.sampling_settings import OverlongConfig
from trm_agent.verl_plugin.driver.sampling_mixin import overlong_metrics
from trm_agent.verl_plugin.rollout import agent_loop
from trm_agent.verl_plugin.rollout.overlong import OVERLONG_PARTITION, is_masked, length_penalty, masked_tag

PENALTY = OverlongConfig(treatment="penalty", buffer_tokens=20, penalty_factor=0.5)


def ended(reason: StopReason, tokens: int) -> Any:
    """As much of an episode as the penalty looks at."""
    return SimpleNamespace(stop_reason=reason, response_ids=[0] * tokens)


@pytest.mark.parametrize(
    ("tokens", "lost"),
    [
        # the buffer begins at 100 - 20; a quarter of it costs a quarter of 0.5
        (1, 0.0),
        (80, 0.0),
        (85, 0.125),
        (90, 0.25),
        (100, 0.5),
    ],
)
def test_the_penalty_is_linear_within_the_buffer(tokens, lost):
    assert length_penalty(ended(StopReason.TERMINATED, tokens), 100, PENALTY) == pytest.approx(lost)


def test_an_episode_that_ran_out_of_tokens_is_of_full_length_whatever_it_lacks():
    # a turn that ended at 60, with an answer of more than 40 tokens, which is not in the response
    assert length_penalty(ended(StopReason.MAX_TOKENS, 60), 100, PENALTY) == 0.5


@pytest.mark.parametrize("treatment", ["keep", "mask"])
def test_only_the_penalty_costs_anything(treatment):
    assert length_penalty(ended(StopReason.MAX_TOKENS, 100), 100, OverlongConfig(treatment=treatment)) == 0


@pytest.mark.parametrize("reason", list(StopReason))
def test_only_an_episode_that_ended_for_want_of_tokens_is_masked(reason):
    episode = SimpleNamespace(stop_reason=reason)
    assert is_masked(episode, OverlongConfig(treatment="mask")) == (reason == "max_tokens")
    assert not is_masked(episode, OverlongConfig())
    assert not is_masked(episode, PENALTY)


def test_the_trainer_learns_of_a_masked_episode_what_its_counts_need():
    told = {"horizon": 4, "success": False, "model_tokens": 3, "response_tokens": 5, "numbers": {}}
    tag = masked_tag("u", told)
    assert tag == {"uid": "u", "horizon": 4, "success": False, "model_tokens": 3, "response_tokens": 5}


def test_a_step_tells_what_was_masked_or_taken_off():
    summaries = [{"overlong_penalty": 0.5}, {}, {}, {"overlong_penalty": 0.1}]
    assert overlong_metrics("keep", summaries, 0) == {}
    assert overlong_metrics("mask", summaries, 3) == {"env/overlong/masked": 3.0}
    assert overlong_metrics("penalty", summaries, 0) == {
        "env/overlong/penalised_frac": 0.5,
        "env/overlong/penalty_mean": pytest.approx(0.15),
    }


def played(reason: StopReason, reward: float) -> Episode:
    """An episode of 12 tokens, of which the model sampled all."""
    turn = Turn(text="x" * 12, token_span=(0, 12), finished=True)
    return Episode(
        env_id="x",
        seed=0,
        options={"horizon": 2},
        prompt_ids=[1],
        response_ids=[5] * 12,
        response_mask=[True] * 12,
        rollout_log_probs=[-0.5] * 12,
        turns=[turn],
        reward=reward,
        success=False,
        stop_reason=reason,
        timings={"generate": 0.0, "env": 0.0, "total": 0.0},
        extras=[{}],
    )


async def output_of(
    episode: Episode,
    overlong: OverlongConfig,
    stream: str,
    monkeypatch: pytest.MonkeyPatch,
    num_recorded: int = 0,
    estimator: str | None = None,
) -> tuple:
    """What the agent loop hands to verl, and the tags that it puts aside."""
    tags = []
    settings = SimpleNamespace(
        chat="{}",
        num_recorded=num_recorded,
        estimator=estimator,
        run_dir="",
        seed=None,
        env_kwargs={},
        module=None,
        places=1,
        keeps_record=False,
        keeps_contexts=False,
    )
    settings.overlong, settings.limits = overlong, SimpleNamespace(max_response_tokens=20)

    async def put(key: str, partition_id: str, tag: dict) -> None:
        tags.append((partition_id, tag))

    async def play(*_, **__) -> Episode:
        return episode

    monkeypatch.setattr(agent_loop, "play_settings", lambda _: settings)
    monkeypatch.setattr(agent_loop, "renderer", lambda *_: SimpleNamespace(stop_token_ids=[0]))
    monkeypatch.setattr(agent_loop, "_counter", lambda _: SimpleNamespace(add_episode=lambda **_: None))
    monkeypatch.setattr(agent_loop, "run_episode", play)
    monkeypatch.setattr(agent_loop.tq, "async_kv_put", put)
    task = json.dumps({"env_id": "x", "seed": 0, "options": {}, "stream": stream})
    loop = agent_loop.EnvAgentLoop(SimpleNamespace(config=None), None, None)
    return await loop.run({}, env_task=task, uid="u"), tags


async def test_a_masked_episode_reaches_no_update_and_is_told(monkeypatch):
    output, tags = await output_of(played(StopReason.MAX_TOKENS, 0.0), OverlongConfig("mask"), "train", monkeypatch)
    assert output == []
    ((partition, tag),) = tags
    assert (partition, tag["uid"], tag["success"], tag["model_tokens"]) == (OVERLONG_PARTITION, "u", False, 12)


@pytest.mark.parametrize(
    ("reason", "overlong", "stream", "reward", "lost"),
    [
        (StopReason.MAX_TURNS, OverlongConfig("mask"), "train", 0.3, None),
        (StopReason.MAX_TOKENS, OverlongConfig("mask"), "val", 0.3, None),
        (StopReason.MAX_TOKENS, OverlongConfig(), "train", 0.3, None),
        # 12 of 20 tokens are 2 beyond 20 - 10, a fifth of the buffer
        (StopReason.MAX_TURNS, OverlongConfig("penalty", 10, 0.5), "train", 0.2, 0.1),
        (StopReason.MAX_TURNS, OverlongConfig("penalty", 10, 0.5), "val", 0.3, None),
        (StopReason.MAX_TURNS, OverlongConfig("penalty", 8, 0.5), "train", 0.3, None),
    ],
)
async def test_what_is_not_masked_is_trained_on(reason, overlong, stream, reward, lost, monkeypatch):
    output, tags = await output_of(played(reason, 0.3), overlong, stream, monkeypatch)
    assert tags == []
    assert output.reward_score == pytest.approx(reward)
    assert output.extra_fields["episode"].get("overlong_penalty") == (None if lost is None else pytest.approx(lost))
