from .worked import kept_sequences


def test_the_mean_over_the_tokens_decides():
    # k3 of 0.4 is e^0.4 - 1 - 0.4 = 0.0918: once in four tokens a mean of 0.0230, twice 0.0459
    ratios = [[0.4, 0.0, 0.0, 0.0], [0.4, 0.4, 0.0, 0.0]]
    assert kept_sequences("avg", ratios, avg_token_kl=0.03) == [True, False]
    assert kept_sequences("avg", ratios, avg_token_kl=0.05) == [True, True]
    assert kept_sequences("avg", ratios, avg_token_kl=0.02) == [False, False]
