"""verl runs the loss inside an autocast to bfloat16: nothing of it, and of no divergence, may be rounded to that."""

from functools import partial

import pytest
import torch

pytest.importorskip("verl")

from tests.core import reference_distributions
from tests.core.batches import Tensors
from trm_agent.core.exact import exact_divergences
from trm_agent.core.exact_hidden import exact_divergences_from_hidden
from trm_agent.core.intervals import topk_intervals
from trm_agent.core.token_batch import DivergenceBounds
from trm_agent.trust_region.masking import examine
from trm_agent.trust_region.settings import TrmConfig
from trm_agent.verl_plugin.actor import policy_loss

from .loss_support import MicroBatch, actor_config, batch_info, collect_update, loss_of, set_micro_batch, through_verl

autocast_now = partial(torch.is_autocast_enabled, "cpu")
ROWS, LENGTH, VOCAB, HIDDEN = 4, 6, 61, 24
BF16 = torch.bfloat16


def distributions(generator: torch.Generator, moved: float = 0.1) -> tuple[torch.Tensor, ...]:
    """Hidden states of two near policies and their head: the logits are exact in float64."""
    rollout = torch.randn(ROWS * LENGTH, HIDDEN, generator=generator)
    hidden = rollout + moved * torch.randn(rollout.shape, generator=generator)
    return rollout, hidden, torch.randn(VOCAB, HIDDEN, generator=generator) / 2


def of_float64(rollout: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """KL and TV of each token by a loop, shape (tokens, 2)."""
    pairs = zip(rollout.double().tolist(), logits.double().tolist(), strict=True)
    return torch.tensor([reference_distributions.divergences(*pair)[::2] for pair in pairs], dtype=torch.float64)


def test_divergences_from_hidden_states_are_those_of_float64():
    rollout, hidden, head = distributions(torch.Generator().manual_seed(0))
    expected = of_float64(rollout.double() @ head.double().T, hidden.double() @ head.double().T)
    with torch.autocast("cpu", BF16):
        # the premise: a product is rounded here
        assert (hidden @ head.T).dtype == BF16
        found = exact_divergences_from_hidden(rollout, head, hidden, head)
    assert expected[:, 0].min() > 1e-3
    torch.testing.assert_close(found.kl.double(), expected[:, 0], atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(found.tv.double(), expected[:, 1], atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_divergences_from_logits_are_those_of_float64(dtype):
    rollout, hidden, head = distributions(torch.Generator().manual_seed(1))
    full, logits = (rollout @ head.T).log_softmax(-1), (hidden @ head.T).to(dtype)
    expected, known = of_float64(full, logits), full.topk(8)
    with torch.autocast("cpu", BF16):
        found = exact_divergences(full, logits)
        bounds = topk_intervals(known.indices, known.values, logits.float())
    torch.testing.assert_close(found.kl.double(), expected[:, 0], atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(found.tv.double(), expected[:, 1], atol=1e-7, rtol=1e-5)
    assert (bounds.kl_lower <= expected[:, 0] + 1e-7).all()
    assert (bounds.kl_upper >= expected[:, 0] - 1e-7).all()


@pytest.mark.parametrize("estimator", ["sampled", "topk", "exact"])
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_the_loss_its_gradient_and_its_metrics_are_those_of_float64(estimator, decoupled, dtype, monkeypatch):
    """The engine's log-probs may come in half precision; what is made of them is not."""
    autocasts = []
    monkeypatch.setattr(policy_loss, "examine", lambda *given: autocasts.append(autocast_now()) or examine(*given))
    trm = TrmConfig(criterion="both", max_token_kl=0.05, avg_token_kl=0.01, estimator=estimator, decoupled=decoupled)
    results = []
    for precision in (torch.float64, dtype):
        generator = torch.Generator().manual_seed(2)
        log_probs = (-3 * torch.rand(ROWS, LENGTH, generator=generator)).to(dtype).to(precision).requires_grad_()
        rollout = (log_probs.detach() + 0.1 * torch.randn(ROWS, LENGTH, generator=generator)).to(dtype).to(precision)
        mask = torch.rand(ROWS, LENGTH, generator=generator) < 0.8
        tensors = Tensors(log_probs, rollout, torch.randn(ROWS, LENGTH, generator=generator), mask)
        bounds = (0.02 * torch.rand(2, ROWS, LENGTH, generator=generator)).sort(dim=0).values
        measured = None if estimator == "sampled" else DivergenceBounds(*bounds[[0, estimator == "topk"] * 2])
        with collect_update() as update, torch.autocast("cpu", BF16, enabled=precision == dtype):
            set_micro_batch(MicroBatch(measured, rollout, {}))
            loss, _ = loss_of(tensors, actor_config(trm, **batch_info(tensors)))
        loss.backward()
        results.append((loss.detach().double(), log_probs.grad.double(), through_verl([update])))
    assert autocasts == [False, False]
    (exact, exact_gradient, exact_metrics), (loss, gradient, metrics) = results
    assert 0 < float((exact_gradient != 0).sum()) < ROWS * LENGTH
    torch.testing.assert_close(loss, exact, atol=1e-7, rtol=1e-6)
    # of bfloat16 itself, in which a leaf in half precision keeps its gradient
    error = 1e-6 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(gradient, exact_gradient, atol=1e-7, rtol=error)
    assert metrics.keys() == exact_metrics.keys()
    for name, value in exact_metrics.items():
        assert metrics[name] == pytest.approx(value, rel=1e-5, abs=1e-6, nan_ok=True), name
