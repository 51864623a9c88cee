from .worked import kept_sequences


def test_a_token_outside_rejects_only_where_the_update_pushes_it_further_out():
    # k2 of 0.4 and of -0.4 is 0.08; with A > 0 a ratio above 1 is pushed out, with A < 0 one below 1
    ratios = [[0.0, 0.4, 0.0], [0.0, -0.4, 0.0]]
    assert kept_sequences("directional", ratios, max_token_kl=0.05) == [False, True]
    assert kept_sequences("directional", ratios, advantage=-1.0, max_token_kl=0.05) == [True, False]
    assert kept_sequences("directional", ratios, max_token_kl=0.09) == [True, True]


def test_without_an_advantage_nothing_is_pushed():
    assert kept_sequences("directional", [[5.0, -5.0]], advantage=0.0, max_token_kl=0.05) == [True]
