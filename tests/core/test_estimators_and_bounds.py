"""Bounds are of a KL in nats, whichever sampled divergences the criteria compare."""

import math

import pytest
import torch

from trm_agent.core.bounds import error_bounds, pinsker
from trm_agent.core.chi2_bounds import pooled_chi2_kl_bound
from trm_agent.core.divergences import KL_ESTIMATES, TOKEN_DIVERGENCES
from trm_agent.core.horizon import effective_horizon
from trm_agent.core.masks import Interval
from trm_agent.core.summary import summarize
from trm_agent.core.token_batch import BatchDivergences, TokenBatch
from trm_agent.trust_region.criterion import KL_ESTIMATORS
from trm_agent.trust_region.masking import examine
from trm_agent.trust_region.settings import MASK_ESTIMATORS, TrmConfig

# log rho of two sequences of three tokens, and a place that nobody sampled
LOG_RATIOS = torch.tensor([[0.5, -0.3, 0.1, 0.0], [-0.7, 0.2, -0.1, 0.0]], dtype=torch.float64)
MASK = torch.tensor([True, True, True, False]).expand(2, -1)


def batch(log_ratio: torch.Tensor = LOG_RATIOS, measured: BatchDivergences | None = None) -> TokenBatch:
    mask = MASK if log_ratio is LOG_RATIOS else torch.ones_like(log_ratio, dtype=torch.bool)
    return TokenBatch(log_ratio, torch.zeros_like(log_ratio), torch.ones_like(log_ratio), mask, measured)


def metrics(of: TokenBatch, **settings) -> dict[str, float]:
    found = summarize(examine(TrmConfig(**settings), of)[1])
    return {name: value.item() for name, value in found.items()}


def k3(value: float) -> float:
    return math.exp(value) - 1 - value


def test_the_estimators_of_a_kl_are_named_alike_by_settings_and_core():
    assert set(KL_ESTIMATORS) == set(KL_ESTIMATES) & set(MASK_ESTIMATORS)
    assert set(MASK_ESTIMATORS) < TOKEN_DIVERGENCES.keys()


@pytest.mark.parametrize("max_estimator", MASK_ESTIMATORS)
@pytest.mark.parametrize("avg_estimator", MASK_ESTIMATORS)
def test_the_papers_bounds_take_estimates_of_a_kl(max_estimator, avg_estimator):
    found = metrics(batch(), max_estimator=max_estimator, avg_estimator=avg_estimator)
    # both are largest at -0.7: k2 is 0.245, k3 0.197
    delta = k3(-0.7) if max_estimator == "k3" else 0.7**2 / 2
    kl_seq = sum(map(k3, LOG_RATIOS.flatten().tolist())) / 2
    mean_tv = (LOG_RATIOS.expm1().abs() / 2).mean(dim=0)[:3]
    bounds = error_bounds(3, delta, kl_seq, mean_tv=mean_tv)
    assert found["kl_seq"] == pytest.approx(kl_seq, rel=1e-12)
    for name in ("unified", "adaptive", "mixed_kl", "pinsker_marginal_kl", "classical"):
        assert found[f"bound_{name}"] == pytest.approx(getattr(bounds, name).item(), rel=1e-12), name
    assert found["effective_horizon"] == effective_horizon(delta, kl_seq / 3).item()
    gain = LOG_RATIOS.expm1().sum().item() / 2
    assert found["margin"] == pytest.approx(gain - bounds.unified.item(), rel=1e-12)
    # what is compared keeps its own unit
    largest = TOKEN_DIVERGENCES[max_estimator](LOG_RATIOS).max().item()
    assert found["token_kl_max"] == pytest.approx(largest, rel=1e-12)


@pytest.mark.parametrize("max_estimator", MASK_ESTIMATORS)
@pytest.mark.parametrize("avg_estimator", MASK_ESTIMATORS)
def test_a_threshold_that_is_no_kl_is_the_delta_of_no_policy(max_estimator, avg_estimator):
    # 0.25 is above all four at 0.1 and -0.2, and below them at -0.9, where k3 is 0.307: the second is cut at once
    log_ratio = torch.tensor([[-0.2, 0.1], [-0.9, 0.1]], dtype=torch.float64)
    settings = {"max_token_kl": 0.25, "max_estimator": max_estimator, "avg_estimator": avg_estimator}
    found = metrics(batch(log_ratio), **settings)
    kept_kl, delayed_kl = (k3(-0.2) + k3(0.1)) / 2, k3(0.1) / 2
    hybrid = pooled_chi2_kl_bound(2, (math.expm1(-0.2) ** 2 + math.expm1(0.1) ** 2) / 2, delayed_kl).item()
    if max_estimator in KL_ESTIMATORS:
        # T = 2: 2 eps sqrt(delta / 2), and 2 T eps sqrt(K / 2)
        eps = pinsker(0.25).item()
        hybrid = min(hybrid, 2 * eps * eps, 2 * 2 * eps * math.sqrt(kept_kl / 2))
    assert found["bound_stop"] == pytest.approx(hybrid + 0.5 + math.sqrt(kept_kl / 2), rel=1e-12)


@pytest.mark.parametrize(("max_estimator", "largest"), [("k2", 0.5), ("abs_log_ratio", 1.0)])
def test_the_least_of_stops_bounds_takes_delta_only_where_it_is_a_kl(max_estimator, largest):
    # chi2 is heavy, so that half of Pinsker-Marginal is the least at k2 up to 0.5: 2 * 0.5 * 0.5 for T = 2
    log_ratio = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    found = metrics(batch(log_ratio), max_token_kl=largest, max_estimator=max_estimator)
    chi2_kl = math.sqrt(2 * math.expm1(1.0) ** 2 * k3(1.0) / 2)
    assert chi2_kl > 1.4
    hybrid = 0.5 if max_estimator == "k2" else chi2_kl
    assert found["bound_stop"] == pytest.approx(hybrid + math.sqrt(2 * k3(1.0) / 2), rel=1e-12)


def test_a_ratio_inside_may_be_far_outside_of_a_kl():
    # |0.1 - 1| is within 0.9, where k2 is 2.65 and k3 1.40: the bound may not take 0.9 for the largest KL
    log_ratio = torch.tensor([[math.log(0.1), 0.0]], dtype=torch.float64)
    found = metrics(batch(log_ratio), max_token_kl=0.9 + 1e-12, max_estimator="abs_ratio_minus_one")
    assert found["acceptance"] == 1.0
    # T (T - 1) delta
    assert found["bound_classical"] == pytest.approx(2 * math.log(0.1) ** 2 / 2, rel=1e-12)


def test_measured_divergences_are_a_kl_whatever_the_sampled_ones_are():
    known = Interval.known(0.02 * MASK.double())
    measured = BatchDivergences(known, known, known, LOG_RATIOS.expm1())
    names = {"max_estimator": "abs_log_ratio", "avg_estimator": "abs_ratio_minus_one"}
    expected = metrics(batch(measured=measured), estimator="exact")
    assert metrics(batch(measured=measured), estimator="exact", **names) == expected
    assert expected["kl_seq"] == pytest.approx(0.06, rel=1e-12)
