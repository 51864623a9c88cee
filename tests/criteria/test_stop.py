from .worked import kept_tokens


def test_the_first_token_outside_ends_its_sequence():
    # k2 of 0.2 is 0.02, of 0.4 it is 0.08: what follows is dropped, though it is inside
    ratios = [[0.2, 0.4, 0.2, 0.0], [0.4, 0.0, 0.0, 0.0], [0.2, 0.2, 0.2, -0.4]]
    expected = [[True, False, False, False], [False] * 4, [True, True, True, False]]
    assert kept_tokens("stop", ratios, max_token_kl=0.05) == expected
    assert kept_tokens("stop", ratios, max_token_kl=0.09) == [[True] * 4] * 3


def test_a_ratio_that_no_loss_can_weigh_ends_its_sequence():
    assert kept_tokens("stop", [[0.1, 800.0, 0.1]], max_token_kl=1e9) == [[True, False, False]]
