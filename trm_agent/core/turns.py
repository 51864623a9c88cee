"""The turns of the model: its runs of sampled tokens."""

from dataclasses import dataclass

import torch

# bytes of a word
_WORD = 8


@dataclass(frozen=True)
class Turns:
    """The turns of a batch, those of one sequence after those of another."""

    row: torch.Tensor
    """Sequence of each turn, shape (turns,)."""
    start: torch.Tensor
    """Place of its first token, same shape."""
    end: torch.Tensor
    """Place after its last token, same shape."""
    counts: torch.Tensor
    """Turns of each sequence, shape (batch,)."""
    before: torch.Tensor
    """Turns of the sequences before each, shape (batch,)."""
    length: int
    """Places of a sequence."""

    def begin(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the places where some turns of every sequence begin.

        Args:
            numbers: of the turns, from 1, shape (n,).

        Returns:
            Shape (batch, n); the length where a sequence has no such turn.
        """
        place = self.before.unsqueeze(-1) + numbers - 1
        starts = torch.nn.functional.pad(self.start, (0, 1), value=self.length)
        exists = numbers <= self.counts.unsqueeze(-1)
        return torch.where(exists, starts[place.clamp(max=len(self.start))], self.length)

    def number_at(self, place: torch.Tensor) -> torch.Tensor:
        """Count the turns of each sequence that have begun.

        Args:
            place: of one token of each sequence, shape (batch,).

        Returns:
            Shape (batch,): 1 in the first turn and behind it, 0 before it.
        """
        rows = torch.arange(len(place), device=place.device)
        begun = torch.searchsorted(self.row * self.length + self.start, rows * self.length + place, right=True)
        return begun - self.before


def find_turns(response_mask: torch.Tensor) -> Turns:
    """Find the turns of a batch.

    Their number is not known beforehand: on a GPU this waits for the mask.

    Args:
        response_mask: bool, True on tokens that the model sampled, shape (batch, response_length).

    Returns:
        The turns.
    """
    batch, length = response_mask.shape
    inside = torch.nn.functional.pad(response_mask, (1, _WORD - length % _WORD))
    # True on the first token of a turn and on the first one after it, in whole words, most of which are 0
    edges = inside[:, 1:] ^ inside[:, :-1]
    word_row, word = edges.view(torch.int64).nonzero(as_tuple=True)
    which, byte = edges.unflatten(-1, (-1, _WORD))[word_row, word].nonzero(as_tuple=True)
    row, place = word_row[which], word[which] * _WORD + byte
    rows = row[::2].contiguous()
    before = torch.searchsorted(rows, torch.arange(batch + 1, device=rows.device))
    return Turns(rows, place[::2].contiguous(), place[1::2].contiguous(), before.diff(), before[:-1], length)


def turns_inside(
    reached: torch.Tensor, begin: torch.Tensor, kl: torch.Tensor, rows: torch.Tensor, max_threshold: float
) -> torch.Tensor:
    """Return whether a sequence has tokens in each bin of turns and none of them is outside.

    A bin is a stretch of the response from `begin` on, and its tokens outside are a difference of prefix sums.

    Args:
        reached: bool, the sequence has tokens in the bin, shape (batch, bins).
        begin: place where each bin begins, same shape.
        kl: of the tokens, 0 on those that the model did not sample, shape (batch, response_length), nats.
        rows: the sequences that have a token outside, shape (n,).
        max_threshold: the largest value inside, nats.

    Returns:
        bool, shape (batch, bins).
    """
    if not len(rows):
        return reached
    borders = torch.nn.functional.pad(begin[rows], (0, 1), value=kl.shape[-1])
    prefix = (~(kl[rows] <= max_threshold)).cumsum(dim=-1, dtype=torch.int32)
    before = torch.where(borders > 0, prefix.gather(-1, (borders - 1).clamp(min=0)), 0)
    return reached.index_copy(0, rows, reached[rows] & (before.diff(dim=-1) == 0))


def turn_numbers(response_mask: torch.Tensor) -> torch.Tensor:
    """Count the turns of the model: 1 on its first run of sampled tokens and on what follows, 2 from the second on.

    Args:
        response_mask: bool, True on tokens that the model sampled, shape (batch, response_length).

    Returns:
        int32, shape (batch, response_length); 0 before the first turn, never decreasing.
    """
    starts = response_mask.clone()
    starts[:, 1:] &= ~response_mask[:, :-1]
    return starts.cumsum(dim=-1, dtype=torch.int32)
