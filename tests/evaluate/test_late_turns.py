"""A turn that was late and is tried again draws the tokens that it would have had."""

import asyncio
from types import SimpleNamespace

import pytest

from tests.episode.fakes import byte_tokenizer
from trm_agent.episode import ChatTokens
from trm_agent.episode.env_runner import TimedOut, within
from trm_agent.evaluate.engines.endpoint import EndpointGenerator
from trm_agent.evaluate.engines.sampling import Sampling
from trm_agent.evaluate.engines.vllm_turns import VllmGenerator


class FakeEngine:
    """Notes the seeds, and is late for the calls of these numbers."""

    def __init__(self, late, answer):
        self.late, self.answer, self.seeds = late, answer, []
        self.sampling, self.chat, self.tokenizer = Sampling(), ChatTokens(byte_tokenizer()), byte_tokenizer()

    async def complete(self, prompt_ids, max_tokens, seed):
        self.seeds.append(seed)
        if len(self.seeds) in self.late:
            await asyncio.sleep(30)
        return self.answer


ANSWERS = {
    VllmGenerator: SimpleNamespace(token_ids=[5], logprobs=[{5: SimpleNamespace(logprob=-0.5)}]),
    EndpointGenerator: {"token_ids": [5], "logprobs": {"token_logprobs": [-0.5]}, "finish_reason": "stop"},
}


@pytest.mark.parametrize("kind", ANSWERS)
async def test_a_late_turn_keeps_its_seed_and_the_next_has_another(kind):
    engine = FakeEngine({2}, ANSWERS[kind])
    generator = kind(engine, seed=7)
    await generator.generate([1], 8)
    with pytest.raises(TimedOut):
        await within(generator.generate([1, 5], 8), 0.05)
    await generator.generate([1, 5], 8)
    await generator.generate([1, 5, 5], 8)
    first, late, again, last = engine.seeds
    assert late == again
    assert len({first, late, last}) == 3
