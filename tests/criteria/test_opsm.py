import math

from .worked import kept_tokens


def test_a_negative_sequence_whose_mean_log_ratio_fell_by_more_than_delta_is_left_out():
    # mean of log(roll / theta): 0.1, 0.00015, 0.00005 and -0.1
    ratios = [[-0.1, -0.1], [-0.1, 0.0997], [-0.1, 0.0999], [0.1, 0.1]]
    far_are_out = [[False, False], [False, False], [True, True], [True, True]]
    assert kept_tokens("opsm", ratios, advantage=-1.0) == far_are_out
    assert kept_tokens("opsm", ratios, advantage=-1.0, opsm_delta=0.0002)[1] == [True, True]
    for advantage in (0.0, 1.0):
        assert kept_tokens("opsm", ratios, advantage=advantage) == [[True, True]] * 4


def test_the_clip_leaves_out_tokens_that_have_gone_far_enough_the_way_the_gradient_pushes():
    # rho: 1.35, 1.11 and 0.70, with a mean of log(roll / theta) below 0, so no sequence is left out
    ratios = [[0.3, 0.1, -0.35]]
    assert kept_tokens("opsm", ratios) == [[False, True, True]]
    assert kept_tokens("opsm", ratios, advantage=-1.0) == [[True, True, False]]
    assert kept_tokens("opsm", ratios, advantage=0.0) == [[True, True, True]]
    # 1 + 0.4 is above each, 1 - 0.4 below
    assert kept_tokens("opsm", ratios, advantage=-1.0, opsm_clip=0.4) == [[True, True, True]]
    for advantage in (-1.0, 1.0):
        assert kept_tokens("opsm", ratios, advantage=advantage, opsm_clip=None) == [[True, True, True]]


def test_a_policy_that_moved_up_and_down_passes_however_far():
    # no token is left out without the clip, though k2 of each is 4.5
    assert kept_tokens("opsm", [[3.0, -3.0]], advantage=-1.0, opsm_clip=None) == [[True, True]]


def test_a_log_ratio_that_is_none_rejects_a_negative_sequence_and_its_own_token_of_a_positive_one():
    ratios = [[math.nan, 0.1], [-math.inf, 0.1]]
    assert kept_tokens("opsm", ratios, advantage=-1.0) == [[False, False], [False, False]]
    # rho = 0 can be weighed, and is not above 1.2
    assert kept_tokens("opsm", ratios) == [[False, True], [True, True]]
