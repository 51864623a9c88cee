from .worked import kept_sequences


def test_each_part_alone_rejects():
    # k2 of 0.4 is 0.08 and its mean k3 over four tokens 0.0230; of 0.25 they are 0.031 and, four times, 0.0340
    ratios = [[0.4, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], [0.2, 0.0, 0.0, 0.0]]
    assert kept_sequences("both", ratios, max_token_kl=0.05, avg_token_kl=0.03) == [False, False, True]
    assert kept_sequences("both", ratios, max_token_kl=0.09, avg_token_kl=0.03) == [True, False, True]
    assert kept_sequences("both", ratios, max_token_kl=0.05, avg_token_kl=0.04) == [False, True, True]
