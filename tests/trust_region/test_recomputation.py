"""Divergences of a dump, recomputed from both engines' distributions."""

import math

import pytest
import torch

from tests.trust_region.test_dump import row, write
from trm_agent.trust_region.dump import read_dump
from trm_agent.trust_region.recomputation import recompute
from trm_agent.trust_region.settings import TrmConfig


def test_exact_divergences_are_recomputed_from_the_distributions(tmp_path):
    ours, theirs = (torch.randn(2, 5, generator=torch.Generator().manual_seed(seed)).log_softmax(-1) for seed in (0, 1))
    kl = (theirs.exp() * (theirs - ours)).sum(-1)
    tv = (theirs.exp() - ours.exp()).abs().sum(-1) / 2
    entry = row([0.0, 0.0], kl=kl.tolist())
    entry["tv_lower"] = entry["tv_upper"] = [tv[0].item(), math.nan, tv[1].item()]
    for name, values in (("full_log_probs", ours), ("rollout_full_log_probs", theirs)):
        entry[name] = values.numpy().tobytes()
    entry["vocab_size"] = 5
    again = recompute(read_dump(write(tmp_path, [entry])))
    assert again["tokens"] == 2
    assert again["kl_difference"] < 1e-6
    assert again["tv_difference"] < 1e-6
    # two tokens: sqrt((chi2_1 + chi2_2) KL_2 / 2); the sampled ones have equal log-probs
    chi2 = ((ours.exp() - theirs.exp()).square() / theirs.exp()).sum().item()
    assert again["chi2_kl_exact"] == pytest.approx((chi2 * min(1, kl[1].item() / 2)) ** 0.5, rel=1e-5)
    assert again["chi2_kl_sampled"] == 0.0
    entry["kl_upper"] = [0.0, math.nan, 0.0]
    wrong = recompute(read_dump(write(tmp_path, [entry])))
    assert wrong["kl_difference"] == pytest.approx(kl.max().item(), rel=1e-5)


def test_of_a_replayed_rollout_both_policies_are_cut_to_its_tokens(tmp_path):
    ours, theirs = (torch.randn(2, 5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    theirs[:, 3:] = -torch.inf
    theirs = theirs.log_softmax(-1)
    cut = ours[:, :3].log_softmax(-1)
    kl = (theirs[:, :3].exp() * (theirs[:, :3] - cut)).sum(-1)
    # of the second token's set more may have been kept: nothing was logged
    entry = row([0.0, 0.0], kl=[kl[0].item(), math.inf])
    tv = (theirs[:, :3].exp() - cut.exp()).abs().sum(-1) / 2
    entry["tv_lower"] = entry["tv_upper"] = [tv[0].item(), math.nan, 1.0]
    for name, values in (("full_log_probs", ours.log_softmax(-1)), ("rollout_full_log_probs", theirs)):
        entry[name] = values.numpy().tobytes()
    entry["vocab_size"] = 5
    again = recompute(read_dump(write(tmp_path, [entry], TrmConfig(estimator="replayed"))))
    assert again["tokens"] == 1
    assert again["kl_difference"] < 1e-6
    assert again["tv_difference"] < 1e-6
    assert again["kl_beyond_a_thousandth"] < 1e-6
    assert "outside_topk_interval" not in again
    # that of the whole policy is another one: it lacks the mass outside
    whole = (theirs[:, :3].exp() * (theirs[:, :3] - ours.log_softmax(-1)[:, :3])).sum(-1)
    entry["kl_upper"] = [whole[0].item(), math.nan, math.inf]
    wrong = recompute(read_dump(write(tmp_path, [entry], TrmConfig(estimator="replayed"))))
    outside = -ours.log_softmax(-1)[0, :3].logsumexp(-1)
    assert wrong["kl_difference"] == pytest.approx(outside.item(), rel=1e-4)
    assert wrong["kl_beyond_a_thousandth"] > 0.1


@pytest.mark.parametrize("estimator", ["exact", "replayed"])
@pytest.mark.parametrize(("column", "told"), [("kl_upper", "kl"), ("tv_upper", "tv"), ("full_log_probs", "kl")])
def test_a_number_that_is_none_is_infinitely_far_from_what_it_should_be(tmp_path, estimator, column, told):
    ours, theirs = (torch.randn(2, 5, generator=torch.Generator().manual_seed(seed)).log_softmax(-1) for seed in (0, 1))
    kl = (theirs.exp() * (theirs - ours)).sum(-1).tolist()
    tv = ((theirs.exp() - ours.exp()).abs().sum(-1) / 2).tolist()
    entry = row([0.0, 0.0], kl=kl) | {"vocab_size": 5, "tv_lower": [tv[0], math.nan, tv[1]]}
    entry["tv_upper"] = entry["tv_lower"]
    if column in entry:
        entry[column] = [entry[column][0], math.nan, math.nan]
    else:
        ours[1] = math.nan
    entry |= {"full_log_probs": ours.numpy().tobytes(), "rollout_full_log_probs": theirs.numpy().tobytes()}
    found = recompute(read_dump(write(tmp_path, [entry], TrmConfig(estimator=estimator))))
    assert found["tokens"] == 2
    assert found[f"{told}_difference"] == math.inf
    if told == "kl":
        assert found["kl_beyond_a_thousandth"] == math.inf
        assert estimator == "replayed" or found["outside_topk_interval"] >= 1


def test_what_both_call_infinite_is_no_difference(tmp_path):
    # the policy in training has no mass where the rollout has half of its own
    theirs, ours = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0]]).log()
    entry = row([0.0], kl=[math.inf]) | {"vocab_size": 2, "tv_lower": [0.5, math.nan], "tv_upper": [0.5, math.nan]}
    entry |= {"full_log_probs": ours.numpy().tobytes(), "rollout_full_log_probs": theirs.numpy().tobytes()}
    found = recompute(read_dump(write(tmp_path, [entry], TrmConfig(estimator="exact"))))
    assert (found["kl_difference"], found["tv_difference"]) == (0.0, pytest.approx(0.0, abs=1e-6))
    assert found["outside_topk_interval"] == 0
