"""A token that was drawn from outside of its recorded set ends the run: its episode is not left out in silence."""

from types import SimpleNamespace

import numpy as np
import pytest
from omegaconf import OmegaConf

pytest.importorskip("verl")

from verl.trainer.ppo.v1 import trainer_base

from tests.verl_plugin.scripted_queue import ScriptedQueue, async_buffer, buffer
from tests.verl_plugin.test_overlong import output_of, played
from trm_agent.episode.outcomes import StopReason
from trm_agent.runs.sampling_settings import OverlongConfig
from trm_agent.trust_region.recording import REPLAYED
from trm_agent.verl_plugin.driver import trainer
from trm_agent.verl_plugin.rollout.distributions import RECORDED, Recorded
from trm_agent.verl_plugin.rollout.failed import FAILURES, DrawnOutside

TRAINING = FAILURES.format(stream="train")


def recorded(token: int) -> Recorded:
    """Sets of three tokens with one candidate each, for the 12 tokens of `played`, whose ids are 5."""
    ids = np.array([[token, 0, 1]] * 12)
    return Recorded(ids, np.array([[0.0, -np.inf, -np.inf]] * 12, dtype=np.float32))


async def tags_of(token: int, monkeypatch) -> list:
    episode = played(StopReason.MAX_TURNS, 0.5)
    episode.seed, episode.extras = 41, [{RECORDED: recorded(token)}]
    output, tags = await output_of(episode, OverlongConfig(), "train", monkeypatch, 3, REPLAYED)
    assert (output == []) == bool(tags)
    return tags


async def test_the_agent_loop_names_request_environment_seed_turn_and_remedy(monkeypatch):
    assert await tags_of(5, monkeypatch) == []
    ((partition, tag),) = await tags_of(6, monkeypatch)
    assert (partition, tag["stop_reason"]) == (TRAINING, "drawn_outside")
    request, told = tag["error"].split(": ", 1)
    assert request.split()[0] == "request"
    assert len(request.split()[1]) == 32
    assert told.startswith("x seed 41: turn 1 drew token 5, which is not among the 3 most likely that its request")
    assert told.endswith("or set actor_rollout_ref.actor.policy_loss.trm.estimator=sampled with top_k=-1 and top_p=1")


@pytest.mark.parametrize("make", [buffer, async_buffer])
async def test_the_run_ends_before_the_other_episodes_are_trained_on(make, monkeypatch):
    ((_, tag),) = await tags_of(6, monkeypatch)
    for others, ends in (("generator_error", False), (tag["stop_reason"], True)):
        queue = ScriptedQueue(lambda _: (1.0, 0.0))
        made = make(queue, monkeypatch)
        queue.draw(4)
        queue.tags[TRAINING]["lost"] = {**tag, "stop_reason": others}
        if not ends:
            assert len(made.sample(1, "train", 4)[0].keys) == 8
            continue
        with pytest.raises(DrawnOutside, match=r"request .*: x seed 41: turn 1 drew token 5"):
            made.sample(1, "train", 4)


def test_a_tag_that_the_queue_showed_too_late_ends_the_run_with_its_step(tmp_path, monkeypatch):
    ours = object.__new__(trainer.trainer_class("sync"))
    ours.config = OmegaConf.create({"run": {"dir": str(tmp_path)}})
    monkeypatch.setattr(trainer_base.PPOTrainer, "_compute_metrics", lambda *_: None)
    monkeypatch.setattr(trainer, "take_ended", lambda _: [{"stop_reason": "drawn_outside", "error": "request 0a"}])
    monkeypatch.setattr(trainer.tq, "kv_batch_get", lambda **_: {"extra_fields": []})
    batch = SimpleNamespace(keys=[], tags=[], partition_id="train")
    with pytest.raises(DrawnOutside, match="request 0a"):
        ours._compute_metrics(batch, {}, {"step": 1.0}, 1, 0)
