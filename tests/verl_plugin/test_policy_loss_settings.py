"""The policy loss under each estimator, criterion and threshold of the step."""

import logging
import math

import pytest
import torch

pytest.importorskip("verl")


from tests.core import reference
from tests.core.batches import Tensors, to_tensors
from tests.verl_plugin.loss_support import actor_config, batch_info, from_engine, loss_of, through_verl, update_of
from trm_agent.core.token_batch import DivergenceBounds
from trm_agent.trust_region.criteria import CRITERIA
from trm_agent.trust_region.settings import TrmConfig
from trm_agent.verl_plugin.actor.update import MicroBatch, other_terms
from trm_agent.verl_plugin.driver.step_warnings import warn_if_all_rejected


@pytest.mark.parametrize(("estimator", "undecided"), [("exact", "reject"), ("topk", "reject"), ("topk", "accept")])
def test_the_mask_reads_the_divergences_of_the_engine(estimator, undecided):
    # three sequences of one token: inside, undecided (or inside by its exact value), outside
    mask = torch.ones(3, 1, dtype=torch.bool)
    tensors = Tensors(torch.full((3, 1), -1.0, requires_grad=True), torch.full((3, 1), -1.0), torch.ones(3, 1), mask)
    lower, upper = torch.tensor([[0.01], [0.02], [0.06]]), torch.tensor([[0.01], [0.06], [0.07]])
    if estimator == "exact":
        lower = upper
    divergences = DivergenceBounds(kl_lower=lower, kl_upper=upper, tv_lower=lower, tv_upper=upper)
    trm = TrmConfig(estimator=estimator, undecided=undecided)
    _, update = from_engine(loss_of, tensors, trm, MicroBatch(divergences))
    kept = [True, undecided == "accept", False]
    assert (tensors.log_probs.grad.flatten() != 0).tolist() == kept
    final = through_verl([update])
    assert final["trm/acceptance"] == pytest.approx(sum(kept) / 3)
    assert final["trm/undecided"] == pytest.approx(0.0 if estimator == "exact" else 1 / 3)
    assert final["trm/token_kl_max"] == pytest.approx(0.07)


def test_an_estimator_that_nobody_feeds_is_refused():
    tensors = to_tensors(reference.random_batch(2))
    with pytest.raises(ValueError, match=r"trm\.estimator: got 'exact'.*no distributions"):
        loss_of(tensors, actor_config(TrmConfig(estimator="exact"), **batch_info(tensors)))


def test_three_policies_take_the_rollout_from_the_engine():
    batch = reference.random_batch(5)
    tensors = to_tensors(batch)
    rollout = tensors.rollout_log_probs
    expected = to_tensors(batch)
    plain, _ = loss_of(expected, actor_config(**batch_info(expected)))
    plain.backward()
    # verl hands the proximal policy as old_log_prob
    tensors.rollout_log_probs = rollout + 0.05
    trm = TrmConfig(criterion="both", max_token_kl=0.01, avg_token_kl=0.002, decoupled=True, proximal_clip=None)
    value, _ = from_engine(loss_of, tensors, trm, MicroBatch(rollout_log_probs=rollout))
    assert value.item() == pytest.approx(plain.item(), rel=1e-9)
    torch.testing.assert_close(tensors.log_probs.grad, expected.log_probs.grad)
    with pytest.raises(ValueError, match=r"decoupled: got true, but the batch has no rollout log-probs"):
        loss_of(tensors, actor_config(trm, **batch_info(tensors)))


def test_the_adaptive_threshold_of_the_step_replaces_the_settings_one():
    batch = reference.random_batch(6, num_sequences=20)
    trm = TrmConfig(max_token_kl=0.01, target_acceptance=0.5)
    tensors = to_tensors(batch)
    _, update = from_engine(loss_of, tensors, trm, MicroBatch())
    threshold = through_verl([update])["trm/target_threshold"]
    counted = sum(len(row) > 0 for row in batch.log_probs)
    _, update = from_engine(
        loss_of, to_tensors(batch), trm, MicroBatch(thresholds={"max_token_kl": threshold * (1 + 1e-6)})
    )
    kept = through_verl([update])["trm/acceptance"] * counted
    # the least threshold that keeps half of them
    assert round(kept) in (counted // 2, counted // 2 + 1)


@pytest.mark.parametrize("criterion", ["ln", "ser", "token", "prefix", "opsm"])
def test_every_criterion_gives_a_loss_and_its_reason(criterion):
    tensors = to_tensors(reference.random_batch(7, num_sequences=30, spread=0.5))
    trm = TrmConfig(criterion=criterion, token_tv=0.01, prefix_budget=None)
    loss, _ = loss_of(tensors, actor_config(trm, **batch_info(tensors)))
    loss.backward()
    final = through_verl([update_of([tensors], actor_config(trm, **batch_info(tensors)))])
    assert 0 < final["trm/kept_tokens"] < 1
    assert f"trm/rejected_by_{criterion}" in final
    assert (tensors.log_probs.grad != 0).any()


def test_an_integer_mask_is_read_as_bool():
    tensors = to_tensors(reference.random_batch(2))
    config = actor_config(**batch_info(tensors))
    expected, _ = loss_of(tensors, config)
    tensors.response_mask = tensors.response_mask.long()
    assert loss_of(tensors, config)[0].item() == expected.item()


@pytest.mark.parametrize("criterion", ["max", "both", "directional"])
@pytest.mark.parametrize("estimator", ["sampled", "topk"])
def test_the_target_is_hit_by_the_next_step_through_verls_reduction(criterion, estimator):
    # four updates a step, each farther off than the one before
    batches = [to_tensors(reference.random_batch(seed, 40, spread=0.1 * 2**seed)) for seed in range(4)]
    trm = TrmConfig(criterion=criterion, estimator=estimator, undecided="accept", target_acceptance=0.7)

    def step(**thresholds: float) -> dict:
        updates = []
        for seed, batch in enumerate(batches):
            kl = torch.where(batch.response_mask, (batch.log_probs - batch.rollout_log_probs).detach() ** 2 / 2, 0.0)
            width = torch.rand(kl.shape, generator=torch.Generator().manual_seed(seed))
            found = DivergenceBounds(kl * (1 - width), kl * (1 + width), kl, kl)
            micro_batch = MicroBatch(found if estimator == "topk" else None, thresholds=thresholds)
            updates.append(from_engine(loss_of, batch, trm, micro_batch)[1])
        return through_verl(updates)

    first = step()
    limits = {"max_token_kl": first["trm/target_threshold"]}
    if criterion == "both":
        limits["avg_token_kl"] = first["trm/target_threshold_avg"]
    assert 0.7 <= step(**limits)["trm/acceptance"] + 1e-9 < 0.7 + 2 / (4 * 38)
    assert all(isinstance(value, float) for value in first.values())


def test_three_policies_count_the_weights_that_are_truncated():
    # w = 3 of every token while rho = 1: all are truncated at 2, none at 4
    mask = torch.ones(2, 3, dtype=torch.bool)
    for cap, expected in ((2.0, 1.0), (4.0, 0.0)):
        rollout = torch.full((2, 3), -2.0)
        tensors = Tensors(rollout.clone().requires_grad_(), rollout + math.log(3), torch.ones(2, 3), mask)
        trm = TrmConfig(decoupled=True, ratio_truncation=cap)
        _, update = from_engine(loss_of, tensors, trm, MicroBatch(rollout_log_probs=rollout))
        assert through_verl([update])["trm/ratio_truncated"] == expected
        # the loss: A r min(w, cap), with r = 1/3
        assert tensors.log_probs.grad.mean().item() == pytest.approx(-min(3, cap) / 3 / 2)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("estimator", ["sampled", "exact"])
@pytest.mark.parametrize("log_prob", [math.nan, math.inf, 200.0])
def test_no_criterion_keeps_what_no_loss_can_weigh(criterion, estimator, log_prob):
    # the engine's log-prob is none in the first sequence, while the distributions agree
    mask = torch.ones(2, 3, dtype=torch.bool)
    log_probs = torch.full((2, 3), -1.0)
    log_probs[0, 1] = log_prob
    tensors = Tensors(
        log_probs.requires_grad_(), torch.full((2, 3), -1.0), torch.tensor([[-1.0], [1.0]]).expand(2, 3), mask
    )
    zeros = DivergenceBounds(*[torch.zeros(2, 3)] * 4)
    before = {}
    if criterion == "permuted":
        before, estimator = {"mask_policy": "start_of_step"}, "sampled"
    everything = {"max_token_kl": 1e9, "avg_token_kl": 1e9, "cumulative_kl": 1e9}
    trm = TrmConfig(criterion=criterion, estimator=estimator, **everything, **before)
    # some criteria are decided before the update: to keep both
    micro_batch = MicroBatch(
        zeros if estimator == "exact" else None, tensors.rollout_log_probs, decided=torch.ones(2).bool()
    )
    value, update = from_engine(loss_of, tensors, trm, micro_batch)
    assert math.isfinite(value.item())
    assert torch.isfinite(tensors.log_probs.grad).all()
    assert tensors.log_probs.grad[0, 1] == 0
    if not trm.masks_tokens:
        # nothing is outside: the inverse keeps none
        second = criterion != "inverse"
        assert update.parts[0].sequences.accepted.tolist() == [False, second]
        assert all(rows.tolist() == [True, not second] for rows in update.parts[0].sequences.rejected_by.values())


@pytest.mark.parametrize(
    ("actor", "terms"),
    [
        ({}, []),
        ({"entropy_coeff": 0, "use_kl_loss": False, "kl_loss_coef": 0.001}, []),
        ({"entropy_coeff": 0.01, "use_kl_loss": False}, ["entropy"]),
        ({"entropy_coeff": 0.0, "use_kl_loss": True, "kl_loss_coef": 0.001}, ["KL"]),
        ({"entropy_coeff": -0.01, "use_kl_loss": True, "kl_loss_coef": 0.001}, ["entropy", "KL"]),
        ({"entropy_coeff": 0.0, "use_kl_loss": True, "kl_loss_coef": 0.0}, []),
    ],
)
def test_the_warning_knows_the_terms_that_no_mask_looks_at(actor, terms, caplog):
    assert other_terms(actor) == terms
    with caplog.at_level(logging.WARNING, logger="trm_agent"):
        warn_if_all_rejected({"trm/all_rejected": 1.0, "trm/rejected_by_max": 1.0}, other_terms(actor))
    assert ("got no gradient" in caplog.text) == (not terms)
    assert ("rejected sequences included" in caplog.text) == bool(terms)
    assert " and ".join(terms) in caplog.text


@pytest.mark.parametrize(
    ("reason", "advice"),
    [("max", "Raise the thresholds"), ("inverse", "turned round"), ("inverse_of_stop", "turned round")],
)
def test_where_a_criterion_is_turned_round_no_threshold_is_to_be_raised(reason, advice, caplog):
    with caplog.at_level(logging.WARNING, logger="trm_agent"):
        warn_if_all_rejected({"trm/all_rejected": 1.0, f"trm/rejected_by_{reason}": 1.0})
    assert advice in caplog.text
    assert ("Raise" in caplog.text) == (reason == "max")
