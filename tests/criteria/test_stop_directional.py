from .worked import kept_tokens


def test_only_a_token_that_is_pushed_further_out_ends_its_sequence():
    # k2 of 0.4 and of -0.4 is 0.08; with A > 0 a ratio above 1 is pushed out, with A < 0 one below 1
    ratios = [[0.0, -0.4, 0.4, 0.0]]
    assert kept_tokens("stop_directional", ratios, max_token_kl=0.05) == [[True, True, False, False]]
    assert kept_tokens("stop_directional", ratios, advantage=-1.0, max_token_kl=0.05) == [[True, False, False, False]]
    assert kept_tokens("stop_directional", ratios, max_token_kl=0.09) == [[True] * 4]


def test_without_an_advantage_nothing_is_pushed():
    assert kept_tokens("stop_directional", [[5.0, -5.0]], advantage=0.0, max_token_kl=0.05) == [[True, True]]
