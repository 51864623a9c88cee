"""A vLLM server of verl that plays episodes and returns the largest log-probs, or all, of each sampled token.

verl's server forces `logprobs` to 0 (the sampled token alone), so the request is widened on its way into the engine.
"""

from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import ray
from verl.workers.rollout.replica import TokenOutput
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica
from vllm.logprobs import FlatLogprobs, Logprob

from trm_agent.verl_plugin.rollout.distributions import RECORD, RECORDED, Recorded, unpack
from trm_agent.verl_plugin.rollout.engine_start import let_engine_fork
from trm_agent.verl_plugin.rollout.playing_server import PlayingMixin
from trm_agent.verl_plugin.rollout.seldom_outputs import joined, let_rest
from trm_agent.verl_plugin.rollout.weight_socket import tell_engine


@dataclass
class _Request:
    num: int
    recorded: Recorded | None = None


_REQUEST: ContextVar[_Request | None] = ContextVar("trm_request", default=None)


class RecordingServer(PlayingMixin, vLLMHttpServer):
    """A server that records the distributions that a request's `RECORD` asks for, and may play episodes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        tell_engine()

    async def run_server(self, args: Any) -> None:
        let_engine_fork(args)
        await super().run_server(args)
        engine: Any = self.engine
        plain = engine.generate

        def generate(*, sampling_params: Any, **kwargs: Any) -> AsyncIterator[Any]:
            request = _REQUEST.get()
            if request is None:
                return plain(sampling_params=sampling_params, **kwargs)
            if not request.num:
                let_rest(sampling_params)
                return joined(plain(sampling_params=sampling_params, **kwargs))
            sampling_params.logprobs = request.num
            # one list for all candidates, none of which is decoded to text
            sampling_params.flat_logprobs, sampling_params.detokenize = True, False
            return _record(plain(sampling_params=sampling_params, **kwargs), request)

        engine.generate = generate

    async def generate(
        self, prompt_ids: list[int], sampling_params: dict[str, Any], *args: Any, **kwargs: Any
    ) -> TokenOutput:
        request = _Request(sampling_params.get(RECORD, 0))
        sampling_params = {key: value for key, value in sampling_params.items() if key != RECORD}
        token = _REQUEST.set(request)
        try:
            output = await super().generate(prompt_ids, sampling_params, *args, **kwargs)
        finally:
            _REQUEST.reset(token)
        if request.num:
            output.extra_fields[RECORDED] = request.recorded
        return output


class RecordingReplica(vLLMReplica):
    """A replica whose servers record."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(RecordingServer)


async def _record(outputs: AsyncIterator[Any], request: _Request) -> AsyncIterator[Any]:
    """Pass the outputs on; in the last, pack the distributions and leave verl the sampled tokens' log-probs."""
    async for output in outputs:
        if output.finished and output.outputs and isinstance(output.outputs[0].logprobs, FlatLogprobs):
            completion = output.outputs[0]
            flat = completion.logprobs
            request.recorded, sampled = unpack(flat.token_ids, flat.logprobs, len(completion.token_ids))
            rows = zip(completion.token_ids, sampled.tolist(), strict=True)
            completion.logprobs = [{token_id: Logprob(logprob=value)} for token_id, value in rows]
        yield output
