from .worked import kept_sequences


def test_a_sequence_is_rejected_only_with_a_negative_advantage():
    # k2 of 0.2 is 0.02, of 0.4 it is 0.08
    ratios = [[0.2, 0.2], [0.0, 0.4], [0.0, -0.4]]
    assert kept_sequences("negative_only", ratios, advantage=-1.0, max_token_kl=0.05) == [True, False, False]
    for advantage in (0.0, 1.0):
        assert kept_sequences("negative_only", ratios, advantage=advantage, max_token_kl=0.05) == [True, True, True]


def test_a_positive_advantage_keeps_no_ratio_that_no_loss_can_weigh():
    assert kept_sequences("negative_only", [[0.0, 800.0]], max_token_kl=1e9) == [False]
