"""What a turn asks of vLLM's outputs: the first and the last, without text, joined to one."""

import asyncio
from types import SimpleNamespace

import pytest

from trm_agent.verl_plugin.rollout import seldom_outputs


def output(token_ids, log_probs, finished=False):
    return SimpleNamespace(outputs=[SimpleNamespace(token_ids=token_ids, logprobs=log_probs)], finished=finished)


def joined(*outputs):
    async def stream():
        for each in outputs:
            yield each

    async def collect():
        return [each async for each in seldom_outputs.joined(stream())]

    return asyncio.run(collect())


@pytest.mark.parametrize(
    "parts", [[[1, 2, 3]], [[1], [2, 3]], [[1], [2], [3]], [[1, 2, 3], []]], ids=["one", "two", "three", "aborted"]
)
def test_the_last_output_has_all_tokens_and_log_probs(parts):
    made = [output(ids, [{each: -each} for each in ids]) for ids in parts]
    made[-1].finished = True
    passed = joined(*made)
    assert len(passed) == len(parts)
    completion = passed[-1].outputs[0]
    assert (completion.token_ids, completion.logprobs) == ([1, 2, 3], [{1: -1}, {2: -2}, {3: -3}])


def test_a_request_without_log_probs_or_outputs_stays_so():
    (only,) = joined(output([5], None, finished=True))
    assert only.outputs[0].logprobs is None
    assert joined(SimpleNamespace(outputs=[], finished=True))[0].outputs == []


@pytest.mark.slow
def test_text_is_made_only_where_a_stop_text_needs_it():
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    plain, stopping = SamplingParams(logprobs=0), SamplingParams(stop=["end"])
    for params in (plain, stopping):
        seldom_outputs.let_rest(params)
        assert params.output_kind is RequestOutputKind.DELTA
        assert params.stream_interval > 10**6
    assert (plain.detokenize, stopping.detokenize) == (False, True)
