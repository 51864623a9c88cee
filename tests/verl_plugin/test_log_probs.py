"""Chunked log-probs are those of float64, forward and backward, and keep no second tensor of the vocabulary's size."""

import pytest
import torch

pytest.importorskip("verl")

from verl.utils import torch_functional

from trm_agent.verl_plugin.actor import log_probs as subject
from trm_agent.verl_plugin.actor.log_probs import chunked_log_probs

VOCAB = 37
# of a log-prob, which is rounded to float32 in all but float64; of a gradient, which has the logits' dtype
ERRORS = {
    torch.float64: (1e-12, 1e-12),
    torch.float32: (3e-6, 1e-6),
    torch.bfloat16: (3e-6, 4e-3),
    torch.float16: (3e-6, 5e-4),
}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    # three rows at a time
    monkeypatch.setattr(subject, "CHUNK_ELEMENTS", 3 * VOCAB)


def inputs(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = (10 * torch.randn(*shape, VOCAB, generator=generator)).to(dtype)
    return logits, torch.randint(VOCAB, shape, generator=generator), torch.randn(*shape, generator=generator)


@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("shape", [(7,), (2, 4), (0,)])
@pytest.mark.parametrize("autocast", [False, True])
def test_values_and_gradients_are_those_of_float64(dtype, shape, autocast):
    logits, labels, weights = inputs(shape, dtype)
    exact = logits.double().requires_grad_()
    expected = exact.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    (expected * weights).sum().backward()
    logits.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = chunked_log_probs(logits, labels)
    (found * weights).sum().backward()
    of_value, of_gradient = ERRORS[dtype]
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(found.double(), expected, atol=of_value, rtol=of_value)
    assert logits.grad.dtype == dtype
    torch.testing.assert_close(logits.grad.double(), exact.grad, atol=of_gradient, rtol=of_gradient)


def test_a_token_that_is_masked_out_has_no_gradient():
    logits, labels, _ = inputs((4,), torch.float32)
    masked = (labels + 1) % VOCAB
    logits.scatter_(1, masked.unsqueeze(1), -torch.inf)
    logits.requires_grad_()
    found = chunked_log_probs(logits, labels)
    found.sum().backward()
    assert found.isfinite().all()
    assert (logits.grad.gather(1, masked.unsqueeze(1)) == 0).all()
    assert logits.grad.isfinite().all()


def test_the_backward_pass_keeps_the_logits_and_a_number_a_token():
    logits, labels, _ = inputs((50,), torch.bfloat16)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each) or each, lambda each: each):
        chunked_log_probs(logits.requires_grad_(), labels)
    sizes = sorted(each.numel() for each in kept if each.data_ptr() != logits.data_ptr())
    assert sizes == [50, 50]


def test_verl_takes_them_without_flash_attn(monkeypatch):
    monkeypatch.setattr(torch_functional, "logprobs_from_logits_v2", None)
    assert not torch_functional.FLAH_ATTN_CROSS_ENTROPY_LOSS_AVAILABLE
    subject.install()
    logits, labels, _ = inputs((7,), torch.bfloat16)
    assert torch.equal(torch_functional.logprobs_from_logits(logits, labels), chunked_log_probs(logits, labels))
    monkeypatch.delattr(torch_functional, "logprobs_from_logits_v2")
    with pytest.raises(RuntimeError, match="is gone"):
        subject.install()
