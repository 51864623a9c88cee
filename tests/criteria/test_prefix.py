import math

from .worked import kept_tokens

HALF = {"rollout_log_prob": -math.log(2)}


def test_tokens_that_move_away_by_more_than_the_threshold_are_left_out():
    # |pi_theta - pi_roll| = |rho - 1| / 2: 0.11 for 0.2, 0.09 for -0.2
    plain = {"token_tv": 0.1, "min_position_weight": 1.0, "prefix_budget": None, **HALF}
    assert kept_tokens("prefix", [[0.2, 0.1, -0.2]], **plain) == [[False, True, True]]
    assert kept_tokens("prefix", [[0.2, 0.1, -0.2]], **(plain | {"token_tv": 0.2})) == [[True, True, True]]
    # a negative advantage turns "away" round: 0.2 moves towards the rollout, -0.25 is off by 0.111
    assert kept_tokens("prefix", [[0.2, 0.1, -0.25]], advantage=-1.0, **plain) == [[True, True, False]]


def test_the_last_token_weighs_less_and_the_budget_is_spent():
    # three tokens off by 0.111 each, weights 1, 0.9, 0.8: 0.111, 0.0996, 0.0886
    ratios = [[0.2, 0.2, 0.2]]
    weighed = {"token_tv": 0.1, "min_position_weight": 0.8, **HALF}
    assert kept_tokens("prefix", ratios, prefix_budget=None, **weighed) == [[False, True, True]]
    # budget min(0.111, 2 * 0.05) = 0.1: before the second token 0.1 earned and 0.111 spent, so 0.089 is left
    assert kept_tokens("prefix", ratios, prefix_budget=0.05, **weighed) == [[False, False, False]]


def test_a_fixed_budget_does_not_grow_with_the_sequences_own_divergences():
    # three tokens off by 0.09; the adaptive budget is 0.09 too, so each finds 0.1 left; with 0.05 the second finds 0.06
    ratios = [[math.log(1.18)] * 3]
    weighed = {"token_tv": 0.1, "min_position_weight": 1.0, "prefix_budget": 0.05, **HALF}
    assert kept_tokens("prefix", ratios, **weighed) == [[True, True, True]]
    assert kept_tokens("prefix", ratios, adaptive_budget=False, **weighed) == [[True, False, False]]
