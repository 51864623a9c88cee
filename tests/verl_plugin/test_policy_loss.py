import logging
import math

import pytest
import torch

pytest.importorskip("verl")

from verl.trainer.ppo.core_algos import agg_loss, get_policy_loss_fn

from tests.core import reference
from tests.core.batches import Tensors, assert_gradient, to_tensors
from tests.verl_plugin.loss_support import (
    REJECT_ALL,
    WHOLE_BATCH_MODES,
    actor_config,
    batch_info,
    keep,
    loss_of,
    through_verl,
    update_of,
)
from trm_agent.core.divergences import masked_log_ratio
from trm_agent.core.losses import masked_surrogate_tokens
from trm_agent.verl_plugin.actor.policy_loss import compute_policy_loss_trm
from trm_agent.verl_plugin.actor.update import (
    EXTREMES,
    KEPT_SET_CUT,
    KEPT_SET_CUT_SEQUENCES,
    collect_update,
    final_metrics,
)
from trm_agent.verl_plugin.driver.step_warnings import warn_if_all_rejected, warn_if_sets_are_cut


def test_the_loss_is_registered():
    assert get_policy_loss_fn("trm") is compute_policy_loss_trm


@pytest.mark.parametrize(("mode", "denominator"), [("seq-mean-token-sum", "sequences"), ("token-mean", "tokens")])
def test_value_and_gradient_equal_the_loops(mode, denominator):
    for seed in range(10):
        batch = reference.random_batch(seed)
        tensors = to_tensors(batch, filler=math.nan)
        # verl pads with numbers; NaN in its padding would already break verl's own aggregation of other terms.
        tensors.advantages = tensors.advantages.nan_to_num(0.0)
        config = actor_config(**batch_info(tensors))
        loss, _ = loss_of(tensors, config, mode)
        loss.backward()
        divisor = len(batch) if denominator == "sequences" else sum(sum(row) for row in batch.sampled)
        value, gradient = reference.loss_and_gradient(batch, keep(batch), divisor)
        assert loss.item() == pytest.approx(value, rel=1e-6, abs=1e-9)
        assert_gradient(tensors.log_probs, gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("mode", WHOLE_BATCH_MODES)
@pytest.mark.parametrize("dp_size", [1, 2])
def test_sequences_aggregate_to_what_verl_makes_of_their_tokens(mode, dp_size):
    for seed in range(10):
        tensors = to_tensors(reference.random_batch(seed))
        info = {"loss_scale_factor": 10, **batch_info(tensors, dp_size)}
        found, _ = loss_of(tensors, actor_config(**info), mode)
        batch = reference.random_batch(seed)
        kept = tensors.response_mask & torch.tensor(keep(batch)).unsqueeze(-1)
        other = tensors.log_probs.detach().requires_grad_()
        log_ratio = masked_log_ratio(other, tensors.rollout_log_probs, tensors.response_mask)
        terms = masked_surrogate_tokens(log_ratio, tensors.advantages, kept)
        expected = agg_loss(terms, tensors.response_mask, mode, **info)
        assert found.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-9)
        gradients = torch.autograd.grad(found, tensors.log_probs) + torch.autograd.grad(expected, other)
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("mode", WHOLE_BATCH_MODES)
@pytest.mark.parametrize("dp_size", [1, 2])
def test_micro_batches_and_ranks_give_the_gradient_of_one_batch(mode, dp_size):
    whole = to_tensors(reference.random_batch(14))
    loss, _ = loss_of(whole, actor_config(**batch_info(whole)), mode)
    loss.backward()
    config = actor_config(**batch_info(whole, dp_size))
    total, size = 0.0, len(whole.response_mask)
    for part in (slice(0, 1), slice(1, 4), slice(4, size)):
        longest = max(int(row.nonzero().max()) + 1 if row.any() else 1 for row in whole.response_mask[part])
        rows = whole.rows(part)
        # verl pads every micro-batch to its own longest response.
        leaf = rows.log_probs.detach()[:, :longest].clone().requires_grad_()
        piece = Tensors(
            leaf, rows.rollout_log_probs[:, :longest], rows.advantages[:, :longest], rows.response_mask[:, :longest]
        )
        part_loss, _ = loss_of(piece, config, mode)
        # FSDP averages gradients over ranks.
        (part_loss / dp_size).backward()
        total += part_loss.item() / dp_size
        torch.testing.assert_close(piece.log_probs.grad, whole.log_probs.grad[part][:, :longest])
        assert (whole.log_probs.grad[part][:, longest:] == 0).all()
    assert total == pytest.approx(loss.item(), rel=1e-6)


@pytest.mark.parametrize("mode", WHOLE_BATCH_MODES)
def test_rejected_sequences_stay_in_the_denominator(mode):
    # One sequence on policy, one far off, a token each, A = 1: half of what the accepted one alone would give.
    mask = torch.ones(2, 1, dtype=torch.bool)
    tensors = Tensors(
        torch.tensor([[-1.0], [-0.1]], requires_grad=True), torch.full((2, 1), -1.0), torch.ones(2, 1), mask
    )
    config = actor_config()
    config.global_batch_info["loss_scale_factor"] = 1
    loss, _ = loss_of(tensors, config, mode)
    loss.backward()
    expected = -1.0 if mode == "token-sum" else -0.5
    torch.testing.assert_close(tensors.log_probs.grad, torch.tensor([[expected], [0.0]]))


def test_an_all_rejected_batch_is_a_zero_gradient_and_a_warning(caplog):
    tensors = to_tensors(reference.random_batch(1), filler=0.0)
    with collect_update() as update:
        loss, _ = loss_of(tensors, actor_config(REJECT_ALL, **batch_info(tensors)))
        loss.backward()
    assert loss.item() == 0.0
    assert (tensors.log_probs.grad == 0).all()
    final = through_verl([update])
    assert (final["trm/acceptance"], final["trm/all_rejected"], final["trm/rejected_by_max"]) == (0.0, 1.0, 1.0)
    with caplog.at_level(logging.WARNING, logger="trm_agent"):
        warn_if_all_rejected(final)
    assert "no sequence of this step was accepted (outside max: 100 %)" in caplog.text


@pytest.mark.parametrize("mode", WHOLE_BATCH_MODES)
@pytest.mark.parametrize("known", [True, False])
def test_a_batch_without_a_model_token_is_a_zero_gradient(mode, known):
    mask = torch.zeros(2, 3, dtype=torch.bool)
    tensors = Tensors(torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3), torch.ones(2, 3), mask)
    config = actor_config(**(batch_info(tensors) if known else {}))
    with collect_update() as update:
        loss, _ = loss_of(tensors, config, mode)
    loss.backward()
    assert loss.item() == 0.0
    assert (tensors.log_probs.grad == 0).all()
    assert through_verl([update]) == {"trm/num_sequences": 0.0}


def test_split_metrics_equal_those_of_the_whole():
    whole = to_tensors(reference.random_batch(16, num_sequences=13))
    config = actor_config(**batch_info(whole))
    expected = through_verl([update_of([whole], config)])
    parts = [whole.rows(part) for part in (slice(0, 2), slice(2, 3), slice(3, 9), slice(9, 13))]
    found = through_verl([update_of(parts, config)])
    assert found.keys() == expected.keys()
    assert len(found) > 30
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name


def test_an_update_hands_on_how_long_a_response_can_be():
    # ratios of e^-3: the chi2-KL bound is capped by the horizon
    rollout = torch.full((2, 4), -1.0)
    tensors = Tensors(rollout - 3, rollout, torch.ones(2, 4), torch.ones(2, 4, dtype=torch.bool))
    config = actor_config(**batch_info(tensors))
    found: dict[int | None, dict] = {}
    for longest in (None, 100):
        with collect_update(longest=longest) as update:
            loss_of(tensors, config)
        found[longest] = through_verl([update])
    assert found[None]["trm/bound_chi2_kl"] < 0.8 * found[100]["trm/bound_chi2_kl"]
    assert found[None]["trm/bound_unified"] == found[100]["trm/bound_unified"]


def test_verl_averages_over_updates_and_keeps_their_extremes():
    batches = [to_tensors(reference.random_batch(seed)) for seed in (20, 23)]
    updates = [update_of([batch], actor_config(**batch_info(batch))) for batch in batches]
    alone, both = [through_verl([update]) for update in updates], through_verl(updates)
    assert alone[0]["trm/rejected_by_max"] != alone[1]["trm/rejected_by_max"]
    for name in ("acceptance", "rejected_by_max", "seq_max_kl_p90", "token_kl_mean_k3", "bound_pinsker_marginal_kl"):
        mean = (alone[0][f"trm/{name}"] + alone[1][f"trm/{name}"]) / 2
        assert both[f"trm/{name}"] == pytest.approx(mean), name
    for name in EXTREMES:
        combine = min if name == "ratio_min" else max
        assert both[f"trm/{name}"] == combine(row[f"trm/{name}"] for row in alone), name


def test_the_signs_add_up_to_the_gain_where_an_update_has_no_finite_sequence():
    finite, far = (to_tensors(reference.random_batch(seed)) for seed in (20, 23))
    far.rollout_log_probs = far.rollout_log_probs - 1000
    step = through_verl([update_of([batch], actor_config(**batch_info(batch))) for batch in (finite, far)])
    assert step["trm/nonfinite"] == 0.5
    gain = step["trm/contribution_positive"] + step["trm/contribution_negative"]
    assert gain == pytest.approx(-step["trm/surrogate_gain"])
    assert gain != 0


@pytest.mark.parametrize(
    ("tokens", "sequences", "undecided", "warns"),
    # one token in 2,000 of sequences of 4,096: 1 - (1 - 1/2000)^4096 = 87 %
    [
        (0.0005, 0.87, "reject", True),
        (0.0005, 0.87, "accept", False),
        (0.002, 0.005, "accept", True),
        (0.0005, 0.005, "reject", False),
        # a single one of 64
        (0.0005, 1 / 64, "reject", False),
    ],
)
def test_cut_sets_warn_by_their_share_of_tokens_or_of_the_sequences_that_it_costs(
    tokens, sequences, undecided, warns, caplog
):
    metrics = {KEPT_SET_CUT: tokens, KEPT_SET_CUT_SEQUENCES: sequences, "TRM/NUM_SEQUENCES": 64.0}
    with caplog.at_level(logging.WARNING, logger="trm_agent"):
        warn_if_sets_are_cut(final_metrics(metrics), 64, undecided)
    told = f"for {100 * tokens:.2g} % of the tokens, in {100 * sequences:.2g} % of the sequences, more than 32 others"
    assert (told in caplog.text) == warns == bool(caplog.text)


def test_outside_of_an_update_the_loss_still_reports():
    tensors = to_tensors(reference.random_batch(18))
    config = actor_config(**batch_info(tensors))
    _, metrics = loss_of(tensors, config)
    assert final_metrics(metrics) == pytest.approx(through_verl([update_of([tensors], config)]), nan_ok=True)


def test_final_metrics_leave_others_alone():
    metrics = {"actor/pg_loss": 1.0, "response_length/max": 3, "critic/TRM/x": 2.0}
    assert final_metrics(metrics) == metrics
