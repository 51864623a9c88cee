"""What long sequences in float32 lose against the same numbers in float64."""

import pytest
import torch

from trm_agent.core.summary import summarize
from trm_agent.core.token_batch import TokenBatch
from trm_agent.trust_region.masking import examine
from trm_agent.trust_region.settings import TrmConfig

SEQUENCES, TOKENS = 6, 20_000


def batch() -> TokenBatch:
    """Turns of 1 to 400 tokens; a divergence that grows along a sequence, in two of them by more than a thousand."""
    generator = torch.Generator().manual_seed(0)
    ends = torch.randint(1, 400, (SEQUENCES, 200), generator=generator).cumsum(-1)
    place = torch.arange(TOKENS)
    mask = torch.searchsorted(ends, place.expand(SEQUENCES, -1).contiguous()) % 2 == 0
    mask &= place < torch.tensor([[TOKENS], [TOKENS], [9_000], [17_001], [64], [1]])
    growth = 1 + 2_000 * (place / TOKENS) ** 4 * torch.tensor([[1], [1], [0], [0], [0], [0]])
    log_ratio = 2e-5 * growth * torch.randn(SEQUENCES, TOKENS, generator=generator)
    log_ratio = torch.where(mask, log_ratio, 0.0)
    advantages = torch.randn(SEQUENCES, 1, generator=generator) * mask
    # the advantages of one sequence are of several values and signs
    advantages[3] += torch.randn(TOKENS, generator=generator) * mask[3]
    prompts = torch.tensor([100, 0, 64, 5_000, 7, 1])
    return TokenBatch(log_ratio, torch.zeros_like(log_ratio), advantages, mask, prompt_lengths=prompts)


def in_float64(of: TokenBatch) -> TokenBatch:
    wide = of.log_ratio.double()
    return TokenBatch(
        wide, torch.zeros_like(wide), of.advantages.double(), of.response_mask, prompt_lengths=of.prompt_lengths
    )


# k3 is a difference of two numbers of the size of log rho: the error of one is machine epsilon times |log rho|
@pytest.mark.parametrize(("max_estimator", "avg_estimator"), [("k2", "k2"), ("abs_log_ratio", "abs_ratio_minus_one")])
@pytest.mark.parametrize("criterion", ["both", "token"])
def test_long_sequences_in_float32_lose_few_digits(max_estimator, avg_estimator, criterion):
    trm = TrmConfig(
        criterion=criterion,
        max_token_kl=1e-3,
        avg_token_kl=1e-4,
        max_estimator=max_estimator,
        avg_estimator=avg_estimator,
    )
    found, expected = (summarize(examine(trm, of)[1]) for of in (batch(), in_float64(batch())))
    assert found.keys() == expected.keys()
    assert len(found) > 100
    for name, value in expected.items():
        # gains of both signs nearly cancel
        absolute = 1e-7 if name.startswith(("contribution", "surrogate", "margin")) else 0.0
        assert found[name].item() == pytest.approx(value.item(), rel=2e-6, abs=absolute), name
