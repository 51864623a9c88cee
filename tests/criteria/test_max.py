from .worked import kept_sequences


def test_one_token_outside_rejects_its_sequence():
    # k2 of 0.2 is 0.02, of 0.4 it is 0.08
    ratios = [[0.2, 0.2, 0.2], [0.0, 0.4, 0.0]]
    assert kept_sequences("max", ratios, max_token_kl=0.05) == [True, False]
    assert kept_sequences("max", ratios, max_token_kl=0.09) == [True, True]
    assert kept_sequences("max", ratios, max_token_kl=0.01) == [False, False]
