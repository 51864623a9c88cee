"""What decisions, statistics and loss cost, counted without a clock: passes over the tokens, bytes, calls of torch."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trm_agent.core.losses import masked_surrogate_tokens
from trm_agent.core.summary import summarize
from trm_agent.core.token_batch import TokenBatch
from trm_agent.trust_region.masking import decide, examine
from trm_agent.trust_region.settings import TrmConfig

# every token is in one piece of `masking`
SEQUENCES, TOKENS = 4, 1024
TRM = TrmConfig(criterion="both", max_token_kl=0.05, avg_token_kl=0.001)


@dataclass
class Cost(TorchDispatchMode):
    """Calls of torch in the block, but for views."""

    calls: int = 0
    passes: int = 0
    """Calls that read or write a number of every token."""
    bytes_a_token: float = 0.0
    """Written by them."""

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        result = call(*args, **(kwargs or {}))
        returned = [item.alias_info for item in call._schema.returns]
        if any(alias is not None and not alias.is_write for alias in returned):
            return result
        self.calls += 1
        results = result if isinstance(result, list | tuple) else [result]
        written = [value for value in results if isinstance(value, torch.Tensor)]
        read = [value for value in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        whole = [value for value in written if value.numel() >= SEQUENCES * TOKENS]
        self.passes += any(value.numel() >= SEQUENCES * TOKENS for value in (*whole, *read))
        self.bytes_a_token += sum(value.nbytes for value in whole) / (SEQUENCES * TOKENS)
        return result


def batch() -> TokenBatch:
    """Turns of 96 tokens, 32 of tools after each; one advantage a sequence."""
    generator = torch.Generator().manual_seed(0)
    mask = (torch.arange(TOKENS) % 128 < 96).expand(SEQUENCES, -1).clone()
    log_ratio = torch.where(mask, 0.01 * torch.randn(SEQUENCES, TOKENS, generator=generator), 0.0)
    advantages = torch.randn(SEQUENCES, 1, generator=generator) * mask
    prompts = torch.arange(SEQUENCES) * 37
    return TokenBatch(log_ratio, torch.zeros_like(log_ratio), advantages, mask, prompt_lengths=prompts)


def cost_of(function: Callable[[], object]) -> Cost:
    function()
    with Cost() as cost:
        function()
    return cost


def test_a_pass_and_its_bytes_are_counted():
    values = torch.zeros(SEQUENCES, TOKENS)
    cost = cost_of(lambda: (values + 1).view(-1)[: TOKENS // 2].sum())
    # a sum of all tokens, into float32, and one of fewer; the views cost nothing
    assert (cost.calls, cost.passes, cost.bytes_a_token) == (2, 1, 4.0)
    cost = cost_of(lambda: values.mul_(2).max(dim=-1))
    assert (cost.calls, cost.passes, cost.bytes_a_token) == (2, 2, 4.0)
    assert cost_of(lambda: values.cumsum(-1, dtype=torch.float64)).bytes_a_token == 8.0


def surrogate(of: TokenBatch) -> None:
    log_ratio = of.log_ratio.clone().requires_grad_()
    masked_surrogate_tokens(log_ratio, of.advantages, of.response_mask).sum().backward()


STEPS: dict[str, Callable[[TokenBatch], object]] = {
    "decide": lambda of: decide(TRM, of),
    "examine": lambda of: examine(TRM, of),
    "surrogate": surrogate,
}


# a twentieth above what is counted: another torch may count a call as two
@pytest.mark.parametrize(
    ("step", "passes", "bytes_a_token"), [("decide", 9, 18), ("examine", 47, 56), ("surrogate", 9, 30)]
)
def test_passes_over_the_tokens_stay_few(step, passes, bytes_a_token):
    of = batch()
    cost = cost_of(lambda: STEPS[step](of))
    assert cost.passes <= passes
    assert cost.bytes_a_token <= bytes_a_token


def test_the_metrics_of_an_update_take_few_calls():
    statistics = examine(TRM, batch())[1]
    assert cost_of(lambda: summarize(statistics)).calls <= 1050
