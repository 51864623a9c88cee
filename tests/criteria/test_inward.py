from .worked import kept_sequences


def test_a_sequence_is_rejected_only_for_a_token_outside_that_is_not_pushed_further():
    # k2 of 0.2 is 0.02, of 0.4 it is 0.08; what becomes likelier is pushed out by A > 0
    ratios = [[0.2, 0.0], [0.0, 0.4], [0.0, -0.4], [0.4, -0.4]]
    assert kept_sequences("inward", ratios, advantage=1.0, max_token_kl=0.05) == [True, True, False, False]
    assert kept_sequences("inward", ratios, advantage=-1.0, max_token_kl=0.05) == [True, False, True, False]
    assert kept_sequences("inward", ratios, advantage=0.0, max_token_kl=0.05) == [True, False, False, False]


def test_with_directional_it_rejects_what_max_rejects():
    ratios = [[0.2, 0.0], [0.0, 0.4], [0.0, -0.4], [0.4, -0.4]]
    for advantage in (-1.0, 1.0):
        kept = {
            name: kept_sequences(name, ratios, advantage=advantage, max_token_kl=0.05)
            for name in ("max", "directional", "inward")
        }
        both = zip(kept["directional"], kept["inward"], strict=True)
        assert kept["max"] == [outward and inward for outward, inward in both]
