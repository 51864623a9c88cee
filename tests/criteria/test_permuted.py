import pytest
import torch

from trm_agent.core.controls import Sequences, length_quarters
from trm_agent.trust_region.controls import OF_TOKENS
from trm_agent.trust_region.criteria import CRITERIA
from trm_agent.trust_region.settings import TrmConfig


def shuffled(sequences: Sequences, seed: int = 0) -> torch.Tensor:
    return CRITERIA["permuted"].whole_batch(sequences, torch.Generator().manual_seed(seed))


def test_each_quarter_and_sign_keeps_as_many_as_the_criterion_did_and_others():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 60, (400,), generator=generator)
    signs = torch.randint(-1, 2, (400,), generator=generator)
    accepted = torch.rand(400, generator=generator) < 1 / (1 + lengths / 20)
    kept = shuffled(Sequences(lengths, signs, accepted))
    quarters = length_quarters(lengths)
    assert quarters.bincount().tolist() == [100] * 4
    assert lengths[quarters == 0].max() <= lengths[quarters == 1].min()
    for quarter in range(4):
        for sign in (-1, 0, 1):
            group = (quarters == quarter) & (signs == sign)
            assert group.sum() > 10
            assert kept[group].sum() == accepted[group].sum()
    # two draws of a group with the share p agree in 1 - 2 p (1 - p) of the cases, here 0.55
    assert 0.4 < (kept == accepted).double().mean() < 0.7


def test_every_order_of_a_group_is_as_likely():
    # one of three sequences is kept: each of them in a third of the draws, within 4 standard deviations
    sequences = Sequences(torch.ones(3).long(), torch.ones(3).long(), torch.tensor([True, False, False]))
    # of three sequences in four quarters no two share one: the length decides alone
    assert shuffled(sequences).tolist() == [True, False, False]
    twelve = Sequences(torch.ones(12).long(), torch.ones(12).long(), torch.tensor([True, False, False] * 4))
    counts = sum(shuffled(twelve, seed).double() for seed in range(3000)) / 3000
    assert counts.tolist() == pytest.approx([1 / 3] * 12, abs=4 * (2 / 9 / 3000) ** 0.5)


def test_it_needs_the_decisions_of_the_start_of_the_step():
    with pytest.raises(ValueError, match=r"mask_policy: got 'current', with criterion='permuted'"):
        TrmConfig(criterion="permuted")
    assert TrmConfig(criterion="permuted", mask_policy="start_of_step").compared == "max"


def test_it_shuffles_no_decisions_on_tokens():
    for name in OF_TOKENS:
        words = rf"controlled: got '{name}', with criterion='permuted', which .*allowed: max, avg.*criterion=inverse"
        with pytest.raises(ValueError, match=words):
            TrmConfig(criterion="permuted", mask_policy="start_of_step", controlled=name)
