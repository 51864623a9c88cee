"""Which aggregations of verl's leave a constant reward without a gain: all trajectories of a tree, by our loss.

The first token ends the sequence (s) or does not (a); a second one, u or v, follows a. The rollout draws each with 1/2.
The gradient of the surrogate of R = 1 is E_roll[sum_t rho_t grad log pi_theta(y_t)], which is 0 in each context; with a
weight that depends on the drawn tokens it is not. rho of a is 1 + E, of s 1 - E, of u 1 + 3 E, of v 1 - 3 E.
"""

import itertools
from math import log1p

import pytest
import torch

pytest.importorskip("verl")

from tests.core.batches import Tensors
from trm_agent.core.token_batch import DivergenceBounds
from trm_agent.trust_region.guarantee import lost_guarantee
from trm_agent.trust_region.settings import TrmConfig

from .loss_support import (
    WHOLE_BATCH_MODES,
    MicroBatch,
    actor_config,
    batch_info,
    collect_update,
    loss_of,
    set_micro_batch,
)

E = 0.2
# tokens of the trajectories; s has two in four draws
TRAJECTORIES = ("au", "av", "s", "s")
LOG_RATIOS = {"a": log1p(E), "s": log1p(-E), "u": log1p(3 * E), "v": log1p(-3 * E)}
PLACE = {"a": 0, "s": 1, "u": 0, "v": 1}
# KL of the two contexts, -(log(1 + e) + log(1 - e)) / 2: 0.0204 of the first and 0.223 after a
FIRST, AFTER_A = (-(log1p(e) + log1p(-e)) / 2 for e in (E, 3 * E))
KEEPING = {"token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm"}
MASKS = {
    "no mask": TrmConfig(criterion="stop", estimator="exact", max_token_kl=10.0),
    "stop": TrmConfig(criterion="stop", estimator="exact", max_token_kl=0.1),
    "token": TrmConfig(criterion="token", estimator="exact", max_token_kl=0.1),
    "stop_cumulative": TrmConfig(criterion="stop_cumulative", estimator="exact", cumulative_kl=0.1),
}


def gradient(trajectories: tuple[str, ...], trm: TrmConfig, mode: str) -> torch.Tensor:
    """Gradient of one mini-batch's loss for R = 1: of the two logits at the start, and of the two after a."""
    mask = torch.tensor([[True, len(tokens) == 2] for tokens in trajectories])
    padded = [(tokens + "u")[:2] for tokens in trajectories]
    logits = torch.tensor([[LOG_RATIOS["a"], LOG_RATIOS["s"]], [LOG_RATIOS["u"], LOG_RATIOS["v"]]], dtype=torch.float64)
    logits.requires_grad_()
    places = torch.tensor([[PLACE[token] for token in tokens] for tokens in padded])
    log_probs = logits.log_softmax(dim=-1)[torch.arange(2), places]
    rollout = torch.full_like(log_probs, -log1p(1.0)).detach()
    tensors = Tensors(log_probs, rollout, torch.ones_like(rollout), mask)
    kl = torch.where(mask, torch.tensor([FIRST, AFTER_A], dtype=torch.float64), 0.0)
    with collect_update():
        set_micro_batch(MicroBatch(DivergenceBounds(kl, kl, kl, kl), rollout))
        loss, _ = loss_of(tensors, actor_config(trm, **batch_info(tensors)), mode)
    loss.backward()
    assert logits.grad is not None
    return logits.grad


@pytest.mark.parametrize("mode", WHOLE_BATCH_MODES)
@pytest.mark.parametrize("name", MASKS)
def test_a_constant_reward_gains_nothing_where_every_sequence_has_one_weight(name, mode):
    # all four draws at once: the mean over sequences is the expectation, for token-mean that over ever more of them
    found = gradient(TRAJECTORIES, MASKS[name], mode)
    if mode == "seq-mean-token-mean":
        # at the logit of a, with E_theta of its gradient (1 + E)(1 - E) / 2: half of it with weight 1/2, less half
        expected = (1 - E**2) / 8
        assert found[0].tolist() == pytest.approx([expected, -expected], abs=1e-6)
        assert found[1].tolist() == pytest.approx([0, 0], abs=1e-6)
    else:
        assert found.abs().max() < 1e-12
    assert (lost_guarantee(MASKS[name], mode) is None) == (mode in KEEPING | {"token-mean"})


def test_the_gain_by_the_tokens_of_a_mini_batch_falls_with_its_sequences():
    # over all mini-batches of n draws, by the number k of those with a: h E[(2 k - n) / (n + k)], h = (1 - E^2) / 2,
    # which is -h / 4 of one, where it is that of seq-mean-token-mean, and tends to -2 h / 9 n
    half = (1 - E**2) / 2
    for size, expected in ((1, 1 / 4), (2, 1 / 8), (4, 0.0598214)):
        found = torch.stack(
            [gradient(drawn, MASKS["stop"], "token-mean") for drawn in itertools.product(("au", "s"), repeat=size)]
        )
        assert found.mean(dim=0)[0, 0].item() == pytest.approx(half * expected, abs=1e-6)
