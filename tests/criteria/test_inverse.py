import pytest

from trm_agent.trust_region.controls import CONTROLLED, OF_SEQUENCES, OF_TOKENS
from trm_agent.trust_region.criteria import CRITERIA
from trm_agent.trust_region.settings import TrmConfig

from .worked import kept_sequences, kept_tokens


def test_what_the_criterion_rejects_is_kept_and_the_rest_is_not():
    # k2 of 0.4 is 0.08 and its mean k3 over two tokens 0.0459
    ratios = [[0.0, 0.1], [0.0, 0.4]]
    assert kept_sequences("inverse", ratios, max_token_kl=0.05) == [False, True]
    assert kept_sequences("inverse", ratios, controlled="avg", avg_token_kl=0.04) == [False, True]
    assert kept_sequences("inverse", ratios, controlled="avg", avg_token_kl=0.05) == [False, False]


def test_of_a_stop_the_tail_from_the_first_token_outside_is_kept():
    # k2 of 0.4 is 0.08; k3 of 0.1 and 0.4 are 0.0052 and 0.0918, so that 0.1 is spent with the second 0.4
    ratios = [[0.1, 0.4, 0.0, 0.4], [0.0, 0.1, 0.0, 0.0]]
    tail = [[False, True, True, True], [False] * 4]
    assert kept_tokens("inverse", ratios, controlled="stop", max_token_kl=0.05) == tail
    # pushed further out with A > 0, and back with A < 0
    assert kept_tokens("inverse", ratios, controlled="stop_directional", max_token_kl=0.05) == tail
    back = kept_tokens("inverse", ratios, controlled="stop_directional", max_token_kl=0.05, advantage=-1.0)
    assert back == [[False] * 4] * 2
    spent = kept_tokens("inverse", ratios, controlled="stop_cumulative", cumulative_kl=0.1)
    assert spent == [[False, False, False, True], [False] * 4]


def test_of_single_tokens_those_that_are_left_out_are_kept():
    ratios = [[0.1, 0.4, 0.0, 0.4]]
    assert kept_tokens("inverse", ratios, controlled="token", max_token_kl=0.05) == [[False, True, False, True]]
    # rho of 0.1 and 0.4 are 1.11 and 1.49
    assert kept_tokens("inverse", ratios, controlled="opsm", opsm_clip=0.2) == [[False, True, False, True]]
    # the probabilities of a token of probability 0.37 are 0.04 and 0.18 apart
    budget = {"token_tv": 0.1, "prefix_budget": None, "min_position_weight": 1.0}
    assert kept_tokens("inverse", ratios, controlled="prefix", **budget) == [[False, True, False, True]]


@pytest.mark.parametrize("name", OF_TOKENS)
def test_each_token_of_the_model_is_kept_by_a_criterion_or_by_its_inverse(name):
    ratios = [[0.1, 0.4, 0.0, -0.3, 0.5], [0.0, -0.9, 0.2, 0.0, 0.1], [0.0] * 5]
    settings = {"cumulative_kl": 0.1, "advantage": -1.0}
    kept, left = kept_tokens(name, ratios, **settings), kept_tokens("inverse", ratios, controlled=name, **settings)
    assert [[not each for each in row] for row in kept] == left
    assert sum(map(sum, kept)) not in (0, 15)


def test_a_ratio_that_no_loss_can_weigh_is_rejected_by_both():
    ratios = [[0.0, 800.0]]
    assert kept_sequences("inverse", ratios, max_token_kl=0.05) == kept_sequences("max", ratios, max_token_kl=0.05)


@pytest.mark.parametrize("broken", [800.0, float("nan"), float("inf")])
def test_a_token_that_no_loss_can_weigh_is_in_no_tail(broken):
    # k2 of 0.1 is 0.005: the stop leaves out what follows, which is inside, and the broken token is kept by neither
    ratios = [[0.1, broken, 0.1]]
    assert kept_tokens("stop", ratios, max_token_kl=0.05) == [[True, False, False]]
    assert kept_tokens("inverse", ratios, controlled="stop", max_token_kl=0.05) == [[False, False, True]]
    assert kept_tokens("inverse", ratios, controlled="token", max_token_kl=0.05) == [[False, False, False]]


def test_what_can_be_controlled_are_the_criteria_that_look_at_both_policies():
    assert tuple(name for name, row in CRITERIA.items() if row.statistic or row.parts) == OF_SEQUENCES
    assert tuple(name for name, row in CRITERIA.items() if row.masks_tokens) == OF_TOKENS
    assert CONTROLLED.allowed.names == OF_SEQUENCES + OF_TOKENS
    with pytest.raises(ValueError, match=r"controlled: got 'random'; allowed: `max`, `avg`"):
        TrmConfig(criterion="inverse", controlled="random")


def test_the_threshold_of_the_controlled_criterion_may_not_be_null():
    assert TrmConfig(criterion="inverse", controlled="avg", max_token_kl=None).thresholds == ("avg_token_kl",)
    with pytest.raises(ValueError, match=r"avg_token_kl: got null"):
        TrmConfig(criterion="inverse", controlled="avg", avg_token_kl=None)
    with pytest.raises(ValueError, match=r"cumulative_kl: got null"):
        TrmConfig(criterion="inverse", controlled="stop_cumulative", cumulative_kl=None)
