"""The terms of benchmarks/gpu.py: a figure with its bound, and the place where it is measured."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    """What was measured."""
    value: float | str
    """The number, or a text that identifies the machine."""
    unit: str = ""
    """Of the number; "" for a ratio or a count."""
    at_least: float | None = None
    """The floor; None for none."""
    at_most: float | None = None
    """The ceiling; None for none."""


@dataclass(frozen=True)
class Place:
    """Where a check runs, and at which size."""

    device: str
    """cuda or cpu."""
    dtype: torch.dtype
    """Of weights and activations."""
    small: bool
    """Whether the sizes are those for two cores, which say nothing about a GPU."""

    @classmethod
    def small_one(cls) -> "Place":
        """Return the place that only shows that a check runs."""
        return cls("cpu", torch.float32, True)

    def synchronize(self) -> None:
        """Wait until the device has done all that it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()
