"""The part of a packed row that a rank computes: the whole of it, or with Ulysses an equal share of its tokens."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Shard:
    """Tokens that stand behind each other in a packed row."""

    first: int
    """Position of the first one in the row."""
    size: int
    """Number of tokens."""
    group: Any = None
    """Ranks that share the row, a group of torch.distributed; None for this one alone."""

    @classmethod
    def of(cls, total: int, group: Any = None) -> "Shard":
        """Return this rank's part.

        Args:
            total: tokens of the row, what fills it up to a multiple of the ranks included.
            group: see the field.
        """
        if group is None:
            return cls(0, total)
        size, rest = divmod(total, torch.distributed.get_world_size(group))
        assert rest == 0, "verl fills a row up to a multiple of the ranks"
        return cls(size * torch.distributed.get_rank(group), size, group)

    def held(self, rows: torch.Tensor) -> slice:
        """Return which of some positions of the row, in ascending order, are this rank's."""
        if self.group is None:
            return slice(0, len(rows))
        borders = rows.new_tensor([self.first, self.first + self.size])
        return slice(*torch.searchsorted(rows, borders).tolist())

    def local(self, rows: torch.Tensor) -> torch.Tensor:
        """Return where in this part the given positions of the row stand that belong to it.

        A part without any gives its first token: a rank that computed nothing would have no graph.

        Args:
            rows: ascending positions in the row.
        """
        found = rows[self.held(rows)] - self.first
        return found if len(found) else rows.new_zeros(1)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Add up a tensor over the ranks that share the row, in place and without gradients."""
        if self.group is not None:
            torch.distributed.all_reduce(values, group=self.group)
        return values
