from .worked import kept_tokens


def test_single_tokens_outside_are_left_out():
    # k2 of 0.2 is 0.02, of 0.4 it is 0.08
    assert kept_tokens("token", [[0.2, 0.4], [0.4, 0.4]], max_token_kl=0.05) == [[True, False], [False, False]]
    assert kept_tokens("token", [[0.2, 0.4]], max_token_kl=0.09) == [[True, True]]
