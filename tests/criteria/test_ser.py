from .worked import kept_sequences


def test_the_mean_deviation_of_the_ratios_decides():
    # |rho - 1| of 0.1 is 0.105, of -0.1 it is 0.095: means of 0.0526 and 0.0476 over two tokens
    ratios = [[0.1, 0.0], [-0.1, 0.0]]
    assert kept_sequences("ser", ratios, ratio_deviation=0.05) == [False, True]
    assert kept_sequences("ser", ratios, ratio_deviation=0.06) == [True, True]
