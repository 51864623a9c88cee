"""A token that was drawn from outside of its recorded set ends the run: its episode is not left out in silence.

Where more tokens tie for the last place than the record holds it is one of those, and counts as one of a cut set.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

pytest.importorskip("verl")

from verl.trainer.ppo.v1 import trainer_base

from tests.verl_plugin.scripted_queue import ScriptedQueue, async_buffer, buffer
from tests.verl_plugin.test_distributions import VOCAB, drawn_inside, episode, micro_batch
from tests.verl_plugin.test_overlong import output_of, played
from trm_agent.episode.outcomes import StopReason
from trm_agent.runs.sampling_settings import OverlongConfig
from trm_agent.trust_region.recording import REPLAYED
from trm_agent.verl_plugin.actor.divergences import rollout_divergences
from trm_agent.verl_plugin.actor.kept import CutSets, replayed_outputs
from trm_agent.verl_plugin.driver import trainer
from trm_agent.verl_plugin.rollout.distributions import (
    KEPT_IDS,
    KEPT_LOG_PROBS,
    RECORDED,
    Recorded,
    distribution_fields,
)
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


@pytest.mark.parametrize("log_prob", [math.log(0.09), math.log(0.11), -math.inf])
def test_a_token_that_a_full_record_lacks_and_that_does_not_tie_with_its_last_was_drawn_more_widely(log_prob):
    tie = float(np.log(0.1))
    full = Recorded(np.array([[0, 1, 2]] * 2), np.array([[np.log(0.4), tie, tie]] * 2, dtype=np.float32))
    told = episode([{RECORDED: full}, {RECORDED: drawn_inside(5)}])
    told.rollout_log_probs[:2] = [float(np.float32(tie)), log_prob]
    with pytest.raises(DrawnOutside, match="turn 1 drew token 4"):
        distribution_fields(told, 3, REPLAYED)


def test_a_token_that_ties_with_the_last_of_a_full_record_takes_its_place_and_the_set_stays_cut():
    # of seven tokens all but the likeliest tie: a record of three lacks four of them, and each may be drawn
    tie = float(np.log(0.1))
    full = Recorded(np.array([[0, 1, 2]] * 2), np.array([[np.log(0.4), tie, tie]] * 2, dtype=np.float32))
    told = episode([{RECORDED: full}, {RECORDED: drawn_inside(5)}])
    told.rollout_log_probs[:2] = [float(np.float32(tie))] * 2
    fields = distribution_fields(told, 3, REPLAYED)
    # tokens 3 and 4 were drawn in its first turn; token 5 is in the record of its second one
    assert fields[KEPT_IDS][[0, 1, 4]].tolist() == [[0, 1, 3], [0, 1, 4], [5, 0, 1]]
    assert np.array_equal(fields[KEPT_LOG_PROBS][:2], full.log_probs)
    kept = {name: [torch.from_numpy(values), torch.from_numpy(values[[4, 2, 4]])] for name, values in fields.items()}
    responses = [torch.tensor(told.response_ids), torch.tensor([5, 0, 5])]
    batch = micro_batch(1.0, True, responses=responses, **kept)
    logits = torch.randn(1, 11, VOCAB, generator=torch.Generator().manual_seed(4))
    cut = CutSets()
    cut.count(batch, VOCAB)
    assert cut.shares() == (2 / 5, 1 / 2)
    found = replayed_outputs(logits, batch)["log_probs"].values()
    measured = rollout_divergences(logits, batch)
    for row, ids in ((1, [0, 1, 3]), (2, [0, 1, 4])):
        assert found[row].item() == pytest.approx(logits[0, row, ids].log_softmax(-1)[-1].item(), rel=1e-5)
        assert (measured.kl_lower[row], measured.kl_upper[row]) == (0, math.inf)
    assert measured.kl_upper[[5, 7, 9]].isfinite().all()
