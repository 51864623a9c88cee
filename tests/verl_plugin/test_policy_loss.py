import logging
import math

import pytest
import torch

pytest.importorskip("verl")

from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.utils.metric import Metric, reduce_metrics
from verl.utils.py_functional import append_to_dict, rename_dict
from verl.workers.config import FSDPActorConfig

from tests.core import reference
from tests.core.batches import Tensors, assert_gradient, to_tensors
from trm_agent.config import TrmConfig
from trm_agent.verl_plugin.policy_loss import (
    TrmPolicyLossConfig,
    collect_metrics,
    compute_policy_loss_trm,
    finalize_trm_metrics,
)
from trm_agent.verl_plugin.trm_metrics import EXTREMES, SUM_PREFIX

TRM = TrmConfig(criterion="both", max_token_kl=0.01, avg_token_kl=0.002)
REJECT_ALL = TrmConfig(max_token_kl=1e-30)
WHOLE_BATCH_MODES = ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]


def actor_config(trm: TrmConfig = TRM, **batch_info) -> FSDPActorConfig:
    return FSDPActorConfig(
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        policy_loss=TrmPolicyLossConfig(trm=trm),
        global_batch_info={"loss_scale_factor": 10, **batch_info},
    )


def loss_of(tensors: Tensors, config: FSDPActorConfig, mode: str = "seq-mean-token-sum"):
    return compute_policy_loss_trm(
        old_log_prob=tensors.rollout_log_probs,
        log_prob=tensors.log_probs,
        advantages=tensors.advantages,
        response_mask=tensors.response_mask,
        loss_agg_mode=mode,
        config=config,
    )


def keep(batch: reference.Batch, trm: TrmConfig = TRM) -> list[bool]:
    return [reference.accepted(batch, i, trm.active_max_token_kl, trm.active_avg_token_kl) for i in range(len(batch))]


def batch_info(tensors: Tensors, dp_size: int = 1) -> dict:
    return {
        "dp_size": dp_size,
        "batch_num_tokens": int(tensors.response_mask.sum()),
        "global_batch_size": len(tensors.response_mask),
    }


def through_verl(ranks: list[list[dict[str, Metric]]]) -> dict:
    """Do what verl's engine, worker and trainer do with the metrics of one mini-batch: ranks x micro-batches."""
    per_rank = []
    for micro_batches in ranks:
        merged: dict = {}
        for metrics in micro_batches:
            append_to_dict(merged, metrics)
        per_rank.append(merged)
    update = {name: Metric.aggregate_dp([rank[name] for rank in per_rank]) for name in per_rank[0]}
    mini_batches: dict = {}
    append_to_dict(mini_batches, update)
    return finalize_trm_metrics(reduce_metrics(rename_dict(mini_batches, "actor/")))


def metrics_of(parts: list[Tensors], config: FSDPActorConfig) -> list[dict[str, Metric]]:
    collected = []
    for part in parts:
        with collect_metrics() as metrics:
            assert loss_of(part, config)[1] == {}
        collected.append(metrics)
    return collected


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
    with caplog.at_level(logging.WARNING, logger="trm_agent"), collect_metrics() as metrics:
        loss, _ = loss_of(tensors, actor_config(REJECT_ALL, **batch_info(tensors)))
        loss.backward()
    assert loss.item() == 0.0
    assert (tensors.log_probs.grad == 0).all()
    assert "all 8 sequences of a micro-batch were rejected" in caplog.text
    caplog.clear()
    final = through_verl([[metrics]])
    assert (final["trm/acceptance"], final["trm/all_rejected"], final["trm/rejected_by_max"]) == (0.0, 1.0, 1.0)
    assert "no sequence of this step was accepted" in caplog.text


@pytest.mark.parametrize("mode", WHOLE_BATCH_MODES)
@pytest.mark.parametrize("known", [True, False])
def test_a_batch_without_a_model_token_is_a_zero_gradient(mode, known, caplog):
    mask = torch.zeros(2, 3, dtype=torch.bool)
    tensors = Tensors(torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3), torch.ones(2, 3), mask)
    config = actor_config(**(batch_info(tensors) if known else {}))
    with collect_metrics() as metrics:
        loss, _ = loss_of(tensors, config, mode)
    loss.backward()
    assert loss.item() == 0.0
    assert (tensors.log_probs.grad == 0).all()
    assert through_verl([[metrics]]) == {"trm/num_sequences": 0.0}
    assert caplog.text == ""


def test_final_metrics_equal_the_loops():
    batch = reference.random_batch(15, num_sequences=17)
    tensors = to_tensors(batch)
    final = through_verl([metrics_of([tensors], actor_config(**batch_info(tensors)))])
    counted = [i for i in range(len(batch)) if batch.log_probs[i]]
    kept = keep(batch)
    k2 = [max(reference.sequence_divergences(batch, i, "k2")) for i in counted]
    k3 = [value for i in counted for value in reference.sequence_divergences(batch, i, "k3")]
    assert final["trm/num_sequences"] == len(counted)
    assert final["trm/acceptance"] == pytest.approx(sum(kept) / len(counted))
    assert 0 < final["trm/acceptance"] < 1
    assert final["trm/all_rejected"] == 0.0
    by_max = sum(not reference.accepted(batch, i, TRM.max_token_kl, None) for i in counted)
    by_avg = sum(not reference.accepted(batch, i, None, TRM.avg_token_kl) for i in counted)
    assert final["trm/rejected_by_max"] == pytest.approx(by_max / len(counted))
    assert final["trm/rejected_by_avg"] == pytest.approx(by_avg / len(counted))
    assert final["trm/token_kl_mean_k3"] == pytest.approx(sum(k3) / len(k3), rel=1e-9)
    assert final["trm/token_kl_k2_max"] == pytest.approx(max(k2), rel=1e-9)
    assert final["trm/ppl_gap"] == pytest.approx(reference.perplexity_gap(batch), rel=1e-9)
    ratios = [math.exp(-v) for i in counted for v in reference.sequence_divergences(batch, i, "k1")]
    assert final["trm/ratio_min"] == pytest.approx(min(ratios), rel=1e-9)
    assert final["trm/ratio_max"] == pytest.approx(max(ratios), rel=1e-9)
    for percent in (50, 90, 99):
        exact = sorted(k2)[math.ceil(percent / 100 * len(k2)) - 1]
        assert abs(math.log10(final[f"trm/seq_max_kl_p{percent}"] / exact)) < 1 / 8
    groups = [final[f"trm/acceptance_length_q{group}"] for group in range(1, 5)]
    assert sum(groups) / 4 == pytest.approx(final["trm/acceptance"])
    # Lengths up to 12 tokens: bins of one length up to 8, so the shortest group is exact up to ties that share.
    by_length = sorted((sum(batch.sampled[i]), kept[i]) for i in counted)
    assert by_length[3][0] < by_length[4][0], "choose a seed without a tie at the border of the first group"
    assert groups[0] == pytest.approx(sum(kept for _, kept in by_length[:4]) / 4)


@pytest.mark.parametrize("dp_size", [1, 2])
def test_split_metrics_equal_those_of_the_whole(dp_size):
    whole = to_tensors(reference.random_batch(16, num_sequences=13))
    expected = through_verl([metrics_of([whole], actor_config(**batch_info(whole)))])
    config = actor_config(**batch_info(whole, dp_size))
    parts = [whole.rows(part) for part in (slice(0, 2), slice(2, 3), slice(3, 9), slice(9, 13))]
    per_rank = len(parts) // dp_size
    ranks = [metrics_of(parts[r * per_rank : (r + 1) * per_rank], config) for r in range(dp_size)]
    assert through_verl(ranks) == pytest.approx(expected, rel=1e-9)


def test_one_collector_around_several_micro_batches():
    whole = to_tensors(reference.random_batch(17))
    config = actor_config(**batch_info(whole))
    expected = through_verl([metrics_of([whole], config)])
    with collect_metrics() as metrics:
        for part in (slice(0, 4), slice(4, None)):
            loss_of(whole.rows(part), config)
    assert through_verl([[metrics]]) == pytest.approx(expected, rel=1e-9)


def test_without_a_collector_verls_averages_still_give_the_ratios():
    whole = to_tensors(reference.random_batch(18))
    config = actor_config(**batch_info(whole))
    expected = through_verl([metrics_of([whole], config)])
    micro_batches = [
        Metric.from_dict(loss_of(whole.rows(part), config)[1], aggregation="mean")
        for part in (slice(0, 1), slice(1, 6), slice(6, None))
    ]
    found = through_verl([micro_batches])
    assert found.keys() == expected.keys() - {f"trm/{name}" for name in EXTREMES}
    for name in found.keys() - {"trm/num_sequences"}:
        assert found[name] == pytest.approx(expected[name], rel=1e-9), name


def test_no_sum_has_a_name_that_verl_would_reduce_by_maximum_or_minimum():
    (metrics,) = metrics_of([to_tensors(reference.random_batch(0))], actor_config())
    for name in metrics:
        if name.startswith(SUM_PREFIX):
            assert "max" not in name
            assert "min" not in name
        else:
            assert EXTREMES[name.removeprefix("trm/")] in name


def test_finalize_leaves_other_metrics_alone():
    metrics = {"actor/pg_loss": 1.0, "response_length/max": 3}
    assert finalize_trm_metrics(metrics) == metrics


def test_an_integer_mask_is_read_as_bool():
    tensors = to_tensors(reference.random_batch(2))
    config = actor_config(**batch_info(tensors))
    expected, _ = loss_of(tensors, config)
    tensors.response_mask = tensors.response_mask.long()
    assert loss_of(tensors, config)[0].item() == expected.item()
