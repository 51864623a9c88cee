"""Sums over stretches of a row, by blocks: the prefix sums of all tokens would take many times as long."""

from dataclasses import dataclass

import torch

BLOCK = 64
"""Values that are summed at once."""


@dataclass(frozen=True)
class BlockSums:
    """The values of a batch, cut into blocks."""

    blocks: torch.Tensor
    """The values, and 0 after the last of a row, shape (batch, blocks, BLOCK)."""
    sums: torch.Tensor
    """Of each block, shape (batch, blocks): float64, of values that were added in their own dtype, or int64."""

    @property
    def total(self) -> torch.Tensor:
        """Sum of each row, shape (batch,)."""
        return self.sums.sum(dim=-1)

    def until(self, row: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        """Sum the first values of some rows.

        Args:
            row: which row, shape (n,).
            end: how many of its values, same shape.

        Returns:
            Dtype of `sums`, shape (n,). A row with a value that is not finite may have NaN.
        """
        block, rest = self._place(end)
        picked = self.blocks.flatten(0, 1).index_select(0, row * self.sums.shape[-1] + block)
        # a row of ones and zeros for each rest: cheaper than a comparison
        ones = torch.ones(BLOCK + 1, BLOCK, dtype=picked.dtype, device=picked.device).tril(-1)
        head = (ones.index_select(0, rest) * picked).sum(dim=-1)
        return _before(self.sums)[row, block] + head

    def between(self, borders: torch.Tensor) -> torch.Tensor:
        """Sum the values between neighbouring borders.

        Args:
            borders: places, never decreasing, shape (batch, n).

        Returns:
            Dtype of `sums`, shape (batch, n - 1). A row with a value that is not finite may have NaN in all of them.
        """
        block, rest = self._place(borders)
        picked = self.blocks.gather(1, block.unsqueeze(-1).expand(-1, -1, BLOCK)).to(self.sums.dtype)
        inside = torch.arange(BLOCK, device=rest.device) < rest.unsqueeze(-1)
        head = torch.where(inside, picked, torch.zeros_like(picked)).sum(dim=-1)
        # a block with a border belongs to two stretches: one must not round the other away
        sums = self.sums.scatter(1, block, picked.sum(dim=-1))
        return (_before(sums).gather(1, block) + head).diff(dim=-1)

    def _place(self, end: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the block in which the first `end` values end, and how many of it they are: up to all."""
        block = (end // BLOCK).clamp(max=self.sums.shape[-1] - 1)
        return block, end - block * BLOCK


def block_sums(values: torch.Tensor) -> BlockSums:
    """Cut the rows of a batch into blocks and sum each.

    Args:
        values: floats or whole numbers, shape (batch, length), of a length of 1 or more.

    Returns:
        The blocks, which may be a view of the values.
    """
    blocks = in_blocks(values, 0)
    wide = torch.float64 if values.is_floating_point() else torch.int64
    return BlockSums(blocks, blocks.sum(dim=-1, dtype=values.dtype).to(wide))


def largest(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest value of each row and its place, the first of several: NaN is larger than all.

    Args:
        values: floats, shape (batch, length), of a length of 1 or more.

    Returns:
        The values, and their places as int64; shape (batch, 1) each.
    """
    blocks = in_blocks(values, -torch.inf)
    # torch searches for a place one value at a time, but for a maximum many at once
    block = blocks.amax(dim=-1).max(dim=-1, keepdim=True).indices
    own = blocks.gather(1, block.unsqueeze(-1).expand(-1, -1, BLOCK)).squeeze(1)
    value, place = own.max(dim=-1, keepdim=True)
    return value, block * BLOCK + place


def in_blocks(values: torch.Tensor, filler: float) -> torch.Tensor:
    """Cut rows into blocks.

    Args:
        values: shape (batch, length).
        filler: stands after the last value of a row.

    Returns:
        Shape (batch, blocks, BLOCK), a view where the length allows one.
    """
    missing = -values.shape[-1] % BLOCK
    padded = torch.nn.functional.pad(values, (0, missing), value=filler) if missing else values
    return padded.unflatten(-1, (-1, BLOCK))


def _before(sums: torch.Tensor) -> torch.Tensor:
    """Return the sum of the blocks before each, and at the end that of all."""
    return torch.nn.functional.pad(sums.cumsum(dim=-1), (1, 0))
