import math

import numpy as np
import pytest
import torch

from trm_agent.trust_region.adaptive import TARGET_THRESHOLDS, AdaptiveThreshold, DecidedBy
from trm_agent.trust_region.settings import TrmConfig

TARGET = TARGET_THRESHOLDS["max"]
TRM = TrmConfig(max_token_kl=0.05, target_acceptance=0.9, adaptive_floor=0.01, adaptive_cap=0.2)


def test_without_a_target_nothing_adapts():
    fixed = AdaptiveThreshold(TrmConfig())
    fixed.observe({TARGET: 0.1})
    assert fixed.thresholds == {}


def test_each_step_takes_what_the_last_one_said():
    adaptive = AdaptiveThreshold(TRM)
    assert adaptive.thresholds["max_token_kl"] == 0.05
    adaptive.observe({TARGET: 0.08, "trm/acceptance": 0.4})
    assert adaptive.thresholds["max_token_kl"] == 0.08
    adaptive.observe({"trm/acceptance": 0.4})
    assert adaptive.thresholds["max_token_kl"] == 0.08


@pytest.mark.parametrize(("observed", "taken"), [(1e-9, 0.01), (7.0, 0.2), (float("inf"), 0.2)])
def test_the_limits_hold(observed, taken):
    adaptive = AdaptiveThreshold(TRM)
    adaptive.observe({TARGET: observed})
    assert adaptive.thresholds["max_token_kl"] == taken


def test_a_resumed_run_goes_on_from_its_last_row():
    rows = [{"step": 0}, {"step": 1, TARGET: 0.08}, {"step": 2, TARGET: 0.11}, {"step": 2}]
    assert AdaptiveThreshold(TRM, rows).thresholds["max_token_kl"] == 0.11


def updates(seed: int, criterion: str = "both", sizes: tuple[int, ...] = (64, 64, 64, 64)) -> list[DecidedBy]:
    """A step's updates of growing mismatch, as the engine reports them."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number, size in enumerate(sizes, start=1):
        spread = 0.01 * 3**number * (0.3 * torch.randn(size, generator=generator)).exp()
        by = {"max": spread, "avg": 0.05 * spread * torch.randn(size, generator=generator).exp()}
        names = ("max", "avg") if criterion == "both" else (criterion,)
        found.append(DecidedBy(0.9, ({name: by[name].tolist() for name in names},)))
    return found


def acceptance(step: list[DecidedBy], thresholds: dict[str, float]) -> float:
    """Mean over the updates, as verl averages `trm/acceptance`."""
    limits = {"max": thresholds["trm/target_threshold"], "avg": thresholds.get("trm/target_threshold_avg", math.inf)}
    shares = []
    for update in step:
        (values,) = update.updates
        kept = np.all([np.asarray(numbers) <= limits[name] for name, numbers in values.items()], axis=0)
        shares.append(kept.mean())
    return float(np.mean(shares))


@pytest.mark.parametrize("criterion", ["max", "both"])
@pytest.mark.parametrize("sizes", [(64, 64, 64, 64), (10, 200, 30, 64), (1, 1, 1, 1), (50,)])
def test_the_target_is_hit_over_all_updates_of_a_step(criterion, sizes):
    step = updates(0, criterion, sizes)
    thresholds = np.mean(step).thresholds()
    assert len(thresholds) == (2 if criterion == "both" else 1)
    # the least thresholds that keep the share: within one sequence of a criterion, which counts most in a small update
    step_size = len(thresholds) / (len(sizes) * min(sizes))
    assert 0.9 <= acceptance(step, thresholds) + 1e-9 <= 0.9 + step_size + 1e-6


def test_the_next_step_of_the_same_mismatch_is_near_the_target():
    for criterion in ("max", "both"):
        shares = [
            acceptance(updates(seed + 1, criterion), np.mean(updates(seed, criterion)).thresholds())
            for seed in range(20)
        ]
        assert np.mean(shares) == pytest.approx(0.9, abs=0.015)
        # what the mean of the updates' own quantiles would have kept
        alone = [update.thresholds() for update in updates(0, criterion)]
        mean = {name: float(np.mean([row[name] for row in alone])) for name in alone[0]}
        assert acceptance(updates(0, criterion), mean) < 0.85


def test_both_thresholds_adapt_within_limits_of_their_own():
    trm = TrmConfig(
        criterion="both", target_acceptance=0.9, adaptive_floor=0.01, adaptive_cap=0.2, adaptive_avg_cap=0.004
    )
    adaptive = AdaptiveThreshold(trm)
    assert adaptive.thresholds == {"max_token_kl": 0.05, "avg_token_kl": 0.001}
    adaptive.observe({"trm/target_threshold": 0.1, "trm/target_threshold_avg": 0.002})
    assert adaptive.thresholds == {"max_token_kl": 0.1, "avg_token_kl": 0.002}
    adaptive.observe({"trm/target_threshold": 1e-9, "trm/target_threshold_avg": 1e-9})
    assert adaptive.thresholds == {"max_token_kl": 0.01, "avg_token_kl": 0.00002}
    adaptive.observe({"trm/target_threshold": 1.0, "trm/target_threshold_avg": 1.0})
    assert adaptive.thresholds == {"max_token_kl": 0.2, "avg_token_kl": 0.004}
    assert AdaptiveThreshold(TRM).thresholds == {"max_token_kl": 0.05}
    assert AdaptiveThreshold(TrmConfig(criterion="both")).thresholds == {}


@pytest.mark.parametrize("criterion", ["avg", "ln", "ser", "random", "token", "prefix"])
def test_a_criterion_that_no_threshold_brings_to_a_target_is_refused(criterion):
    with pytest.raises(
        ValueError, match=rf"target_acceptance: got 0\.9, with criterion='{criterion}'.*criterion max or both"
    ):
        TrmConfig(criterion=criterion, target_acceptance=0.9)


def test_a_floor_above_its_cap_is_refused():
    with pytest.raises(ValueError, match=r"adaptive_avg_floor: got 0\.1, above adaptive_avg_cap=0\.01"):
        TrmConfig(adaptive_avg_floor=0.1)
