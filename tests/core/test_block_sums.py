"""Sums over stretches and the places of the largest, against loops, at lengths around whole blocks."""

import itertools

import pytest
import torch

from trm_agent.core.block_sums import BLOCK, block_sums, largest

LENGTHS = (1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 5 * BLOCK + 7)


def values_of(length: int) -> torch.Tensor:
    return torch.randn(4, length, generator=torch.Generator().manual_seed(length), dtype=torch.float64)


@pytest.mark.parametrize("length", LENGTHS)
def test_the_first_values_of_a_row_are_summed(length):
    values, generator = values_of(length), torch.Generator().manual_seed(0)
    row, end = torch.randint(4, (30,), generator=generator), torch.randint(length + 1, (30,), generator=generator)
    end[:3] = torch.tensor([0, length, length])
    expected = [values[r, :e].sum().item() for r, e in zip(row.tolist(), end.tolist(), strict=True)]
    found = block_sums(values)
    assert found.until(row, end).tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert found.total.tolist() == pytest.approx(values.sum(-1).tolist(), rel=1e-12)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("whole_numbers", [False, True])
def test_stretches_between_borders_are_summed(length, whole_numbers):
    values, generator = values_of(length), torch.Generator().manual_seed(1)
    values = (100 * values).int() if whole_numbers else values
    borders = torch.randint(length + 1, (4, 9), generator=generator).sort(-1).values
    borders[:, 0], borders[:, -1] = 0, length
    found = block_sums(values).between(borders)
    for row in range(4):
        expected = [values[row, a:b].sum().item() for a, b in itertools.pairwise(borders[row].tolist())]
        assert found[row].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_what_is_large_rounds_nothing_away_in_the_stretch_beside_it():
    # 1e-7 behind 1 in one block of float32, whose own sum would keep one digit of it
    values = torch.full((1, 2 * BLOCK), 1e-7)
    values[0, :10] = 1.0
    found = block_sums(values).between(torch.tensor([[0, 10, 2 * BLOCK]]))
    assert found[0].tolist() == pytest.approx([10.0, 1e-7 * (2 * BLOCK - 10)], rel=1e-6)


@pytest.mark.parametrize("length", LENGTHS)
def test_the_first_of_the_largest_is_found(length):
    values = values_of(length).round()
    value, place = largest(values)
    expected = [max(row) for row in values.tolist()]
    assert value.squeeze(-1).tolist() == expected
    assert place.squeeze(-1).tolist() == [row.index(most) for row, most in zip(values.tolist(), expected, strict=True)]


def test_of_negative_values_none_lies_behind_the_end():
    value, place = largest(torch.full((2, BLOCK + 1), -3.0))
    assert value.tolist() == [[-3.0], [-3.0]]
    assert place.tolist() == [[0], [0]]


def test_nan_is_larger_than_all():
    values = torch.ones(1, 3 * BLOCK)
    values[0, 2], values[0, BLOCK + 5], values[0, 2 * BLOCK] = torch.inf, torch.nan, torch.nan
    value, place = largest(values)
    assert value.isnan().all()
    assert place.item() == BLOCK + 5
