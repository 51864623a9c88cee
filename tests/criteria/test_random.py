import pytest
import torch

from trm_agent.core.controls import Sequences
from trm_agent.trust_region.criteria import CRITERIA


def kept(acceptance: float, accepted: torch.Tensor, seed: int = 0) -> torch.Tensor:
    size = len(accepted)
    sequences = Sequences(torch.ones(size).long(), torch.ones(size).long(), accepted)
    generator = torch.Generator().manual_seed(seed)
    return CRITERIA["random"].whole_batch(sequences, generator, random_acceptance=acceptance)


def test_the_coin_looks_at_no_divergence():
    outside, inside = torch.zeros(8000, dtype=torch.bool), torch.ones(8000, dtype=torch.bool)
    assert kept(1.0, outside).all()
    # a standard deviation of 0.0051
    assert kept(0.3, outside).double().mean() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(kept(0.3, outside), kept(0.3, inside))
    assert not torch.equal(kept(0.3, outside), kept(0.3, outside, seed=1))


def test_it_draws_from_no_generator_that_others_share():
    before = torch.get_rng_state()
    kept(0.5, torch.ones(10, dtype=torch.bool))
    assert torch.equal(torch.get_rng_state(), before)
