import pytest
import torch

from .worked import kept_sequences, kept_tokens


def test_the_coin_looks_at_no_divergence():
    assert kept_sequences("random", [[0.0], [9.0]], random_acceptance=1.0) == [True, True]
    torch.manual_seed(0)
    kept = kept_tokens("random", [[0.0, 9.0]] * 4000, random_acceptance=0.3)
    assert {tuple(row) for row in kept} == {(True, True), (False, False)}
    # a standard deviation of 0.0072
    assert sum(row[0] for row in kept) / 4000 == pytest.approx(0.3, abs=0.03)
