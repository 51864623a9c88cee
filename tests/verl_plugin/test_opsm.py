"""The preset `opsm` against the objective of DeepSeek-V3.2, written out, with the preset's aggregation of verl's."""

import itertools

import pytest
import torch

pytest.importorskip("verl")

from tests.core.batches import Tensors, to_tensors
from tests.core.test_opsm import several_advantages
from trm_agent.trust_region.settings import TrmConfig

from .loss_support import actor_config, batch_info, loss_of

MODE = "seq-mean-token-mean"
OPSM = TrmConfig(criterion="opsm")


def objective(log_probs: torch.Tensor, given: Tensors) -> tuple[torch.Tensor, float, list[int]]:
    """Its mean over the sequences, the value of the clipped tokens in it, and how many were masked and clipped."""
    total, constants, counts = torch.zeros((), dtype=torch.float64), 0.0, [0, 0]
    for ours, theirs, advantages, mask in zip(
        log_probs, given.rollout_log_probs, given.advantages, given.response_mask, strict=True
    ):
        ours, theirs, advantages = ours[mask], theirs[mask], advantages[mask]
        if not len(ours) or (advantages.mean() < 0 and (theirs - ours).mean() > 1e-4):
            counts[0] += len(ours) > 0
            continue
        ratio = (ours - theirs).exp()
        clipped = ratio.clamp(0.8, 1.2) * advantages
        stopped = clipped < ratio * advantages
        total = total + torch.minimum(ratio * advantages, clipped).mean()
        constants += clipped[stopped].sum().item() / len(ours)
        counts[1] += int(stopped.sum())
    return total / len(log_probs), constants / len(log_probs), counts


def test_the_gradient_is_the_objectives_and_the_value_lacks_the_clipped_tokens_in_parts_too():
    tensors = to_tensors(several_advantages(3))
    info = batch_info(tensors)
    wanted, constants, counts = objective(tensors.log_probs, tensors)
    (gradient,) = torch.autograd.grad(-wanted, tensors.log_probs)
    assert min(counts) > 5
    for borders in ((0, 60), (0, 1, 25, 60)):
        total = 0.0
        for start, end in itertools.pairwise(borders):
            part = tensors.rows(slice(start, end))
            loss, _ = loss_of(part, actor_config(OPSM, **info), MODE)
            loss.backward()
            total += loss.item()
            # verl adds 1e-8 to the lengths
            torch.testing.assert_close(part.log_probs.grad, gradient[start:end], rtol=1e-7, atol=1e-14)
        assert total == pytest.approx(constants - wanted.item(), rel=1e-7)
