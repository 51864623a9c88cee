"""Turns a reference batch into padded tensors, with chosen rubbish in the padding."""

from dataclasses import dataclass

import torch

from .reference import Batch


@dataclass
class Tensors:
    log_probs: torch.Tensor
    rollout_log_probs: torch.Tensor
    advantages: torch.Tensor
    response_mask: torch.Tensor

    def rows(self, index: list[int] | slice) -> "Tensors":
        leaf = self.log_probs.detach()[index].clone().requires_grad_()
        return Tensors(leaf, self.rollout_log_probs[index], self.advantages[index], self.response_mask[index])


def to_tensors(
    batch: Batch, *, width: int | None = None, filler: float = 0.0, dtype: torch.dtype = torch.float64
) -> Tensors:
    """Pad on the right with `filler`, which also replaces the floats of tokens that the model did not sample."""
    width = max(len(row) for row in batch.log_probs) if width is None else width
    mask = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, sampled in enumerate(batch.sampled):
        mask[row, : len(sampled)] = torch.tensor(sampled, dtype=torch.bool)

    def padded(values: list[list[float]]) -> torch.Tensor:
        result = torch.full((len(batch), width), filler, dtype=dtype)
        for row, entries in enumerate(values):
            result[row, : len(entries)] = torch.tensor(entries, dtype=dtype)
        return torch.where(mask, result, filler)

    return Tensors(
        padded(batch.log_probs).requires_grad_(), padded(batch.rollout_log_probs), padded(batch.advantages), mask
    )


def assert_gradient(
    tensor: torch.Tensor, expected: list[list[float]], rtol: float = 1e-12, atol: float = 1e-14
) -> None:
    """Compare tensor.grad with ragged rows; padding must have a gradient of exactly 0."""
    assert tensor.grad is not None
    for row, values in enumerate(expected):
        torch.testing.assert_close(
            tensor.grad[row, : len(values)], torch.tensor(values, dtype=tensor.dtype), rtol=rtol, atol=atol
        )
        assert (tensor.grad[row, len(values) :] == 0).all()
