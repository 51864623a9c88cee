from .worked import kept_tokens


def test_a_sequence_ends_when_its_divergences_add_up_to_more_than_the_budget():
    # k3 of 0.4 is 0.0918: once 0.0918, twice 0.1836, three times 0.2755
    ratios = [[0.4, 0.0, 0.4, 0.0, 0.4, 0.0]]
    kept = [[True, True, False, False, False, False]]
    assert kept_tokens("stop_cumulative", ratios, cumulative_kl=0.1) == kept
    assert kept_tokens("stop_cumulative", ratios, cumulative_kl=0.2) == [[True] * 4 + [False] * 2]
    assert kept_tokens("stop_cumulative", ratios, cumulative_kl=0.3) == [[True] * 6]
    assert kept_tokens("stop_cumulative", ratios, cumulative_kl=0.09) == [[False] * 6]
