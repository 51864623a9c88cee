import pytest

from trm_agent.adaptive import TARGET_THRESHOLD, AdaptiveThreshold
from trm_agent.config import TrmConfig

TRM = TrmConfig(max_token_kl=0.05, target_acceptance=0.9, adaptive_floor=0.01, adaptive_cap=0.2)


def test_without_a_target_nothing_adapts():
    fixed = AdaptiveThreshold(TrmConfig())
    fixed.observe({TARGET_THRESHOLD: 0.1})
    assert fixed.max_token_kl is None


def test_each_step_takes_what_the_last_one_said():
    adaptive = AdaptiveThreshold(TRM)
    assert adaptive.max_token_kl == 0.05
    adaptive.observe({TARGET_THRESHOLD: 0.08, "trm/acceptance": 0.4})
    assert adaptive.max_token_kl == 0.08
    adaptive.observe({"trm/acceptance": 0.4})
    assert adaptive.max_token_kl == 0.08


@pytest.mark.parametrize(("observed", "taken"), [(1e-9, 0.01), (7.0, 0.2), (float("inf"), 0.2)])
def test_the_limits_hold(observed, taken):
    adaptive = AdaptiveThreshold(TRM)
    adaptive.observe({TARGET_THRESHOLD: observed})
    assert adaptive.max_token_kl == taken


def test_a_resumed_run_goes_on_from_its_last_row():
    rows = [{"step": 0}, {"step": 1, TARGET_THRESHOLD: 0.08}, {"step": 2, TARGET_THRESHOLD: 0.11}, {"step": 2}]
    assert AdaptiveThreshold(TRM, rows).max_token_kl == 0.11
