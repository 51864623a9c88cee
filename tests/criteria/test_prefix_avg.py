from .worked import kept_sequences


def test_what_deviates_early_is_not_paid_back_later():
    # k3 of 0.4 is 0.0918: at first a running mean of 0.0918, at last one of 0.0230 at most in all three
    ratios = [[0.4, 0.0, 0.0, 0.0], [0.0, 0.4, 0.0, 0.0], [0.0, 0.0, 0.0, 0.4]]
    assert kept_sequences("avg", ratios, avg_token_kl=0.03) == [True, True, True]
    assert kept_sequences("prefix_avg", ratios, avg_token_kl=0.03) == [False, False, True]
    # after two tokens 0.0459
    assert kept_sequences("prefix_avg", ratios, avg_token_kl=0.05) == [False, True, True]
    assert kept_sequences("prefix_avg", ratios, avg_token_kl=0.1) == [True, True, True]
