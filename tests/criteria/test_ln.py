import math

from .worked import kept_sequences


def test_of_two_tokens_only_the_first_can_spread():
    # w_2 = 0, so W / Z = |rho_1 - 1|: 0.105 for 0.1, 0.649 for 0.5
    ratios = [[0.1, 5.0], [0.5, 0.0]]
    assert kept_sequences("ln", ratios, length_neutral=0.2) == [True, False]
    assert kept_sequences("ln", ratios, length_neutral=0.1) == [False, False]


def test_eps_and_delta_weigh_the_tokens():
    # three tokens, only the first off by 0.3: W / Z = 0.3 w_1 / (w_1 + w_2)
    ratios = [[math.log(1.3), 0.0, 0.0]]
    # by Pinsker with delta = 0.02: w_1 = min(0.2, sqrt(0.02)), w_2 = 0.1: W / Z = 0.1757
    assert kept_sequences("ln", ratios, max_token_kl=0.02, length_neutral=0.175) == [False]
    assert kept_sequences("ln", ratios, max_token_kl=0.02, length_neutral=0.177) == [True]
    # eps = 0.01: w_1 = 0.02, w_2 = 0.01: W / Z = 0.2
    assert kept_sequences("ln", ratios, max_token_kl=0.02, max_token_tv=0.01, length_neutral=0.19) == [False]
    # delta = 2 without eps: all weights 1 but the last's: W / Z = 0.15
    assert kept_sequences("ln", ratios, max_token_kl=2.0, length_neutral=0.16) == [True]
