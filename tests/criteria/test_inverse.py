import pytest

from trm_agent.trust_region.controls import CONTROLLED
from trm_agent.trust_region.criteria import CRITERIA
from trm_agent.trust_region.settings import TrmConfig

from .worked import kept_sequences


def test_what_the_criterion_rejects_is_kept_and_the_rest_is_not():
    # k2 of 0.4 is 0.08 and its mean k3 over two tokens 0.0459
    ratios = [[0.0, 0.1], [0.0, 0.4]]
    assert kept_sequences("inverse", ratios, max_token_kl=0.05) == [False, True]
    assert kept_sequences("inverse", ratios, controlled="avg", avg_token_kl=0.04) == [False, True]
    assert kept_sequences("inverse", ratios, controlled="avg", avg_token_kl=0.05) == [False, False]


def test_a_ratio_that_no_loss_can_weigh_is_rejected_by_both():
    ratios = [[0.0, 800.0]]
    assert kept_sequences("inverse", ratios, max_token_kl=0.05) == kept_sequences("max", ratios, max_token_kl=0.05)


def test_what_can_be_controlled_are_the_criteria_that_decide_on_sequences_by_a_divergence():
    expected = [name for name, row in CRITERIA.items() if row.statistic or row.parts]
    assert list(CONTROLLED.allowed.names) == expected
    with pytest.raises(ValueError, match=r"controlled: got 'stop'; allowed: `max`, `avg`"):
        TrmConfig(criterion="inverse", controlled="stop")


def test_the_threshold_of_the_controlled_criterion_may_not_be_null():
    assert TrmConfig(criterion="inverse", controlled="avg", max_token_kl=None).thresholds == ("avg_token_kl",)
    with pytest.raises(ValueError, match=r"avg_token_kl: got null"):
        TrmConfig(criterion="inverse", controlled="avg", avg_token_kl=None)
