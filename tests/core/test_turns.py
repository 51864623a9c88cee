"""The turns of a batch, against a loop over its tokens."""

import torch

from trm_agent.core.turns import find_turns, turn_numbers


def loop(mask: torch.Tensor) -> list[list[tuple[int, int]]]:
    """Start and end of the turns of each sequence."""
    found = []
    for row in mask.tolist():
        turns = []
        for place, own in enumerate(row):
            if own and (place == 0 or not row[place - 1]):
                turns.append((place, place + 1))
            elif own:
                turns[-1] = (turns[-1][0], place + 1)
        found.append(turns)
    return found


def masks() -> list[torch.Tensor]:
    """Lengths around whole words; sequences without a token, without another, and whose mask is part of a wider one."""
    generator = torch.Generator().manual_seed(0)
    found = [torch.rand(7, length, generator=generator) < 0.6 for length in (1, 2, 7, 8, 9, 15, 16, 17, 100)]
    for mask in found:
        mask[0], mask[1] = False, True
    return [*found, torch.zeros(2, 5, dtype=torch.bool), found[-1][:, 3:90], found[-1][:0]]


def test_turns_equal_a_loop():
    for mask in masks():
        expected = loop(mask)
        turns = find_turns(mask)
        by_row = [(row, *turn) for row, of_row in enumerate(expected) for turn in of_row]
        assert list(zip(*(v.tolist() for v in (turns.row, turns.start, turns.end)), strict=True)) == by_row
        assert turns.counts.tolist() == [len(of_row) for of_row in expected]


def test_the_n_th_turn_begins_at_its_first_token():
    for mask in masks():
        numbers = torch.tensor([1, 2, 5, 40])
        expected = [
            [of_row[n - 1][0] if n <= len(of_row) else mask.shape[1] for n in numbers.tolist()] for of_row in loop(mask)
        ]
        assert find_turns(mask).begin(numbers).tolist() == expected


def test_a_place_is_in_the_turn_that_began_last():
    for mask in masks():
        for place in range(mask.shape[1]):
            found = find_turns(mask).number_at(torch.full(mask.shape[:1], place))
            assert found.tolist() == turn_numbers(mask)[:, place].tolist()
