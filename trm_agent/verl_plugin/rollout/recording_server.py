"""A vLLM server of verl that plays episodes and returns the largest log-probs, or all, of each sampled token.

verl's server forces `logprobs` to 0 (the sampled token alone), so the request is widened on its way into the engine.
A turn that may be cut for an update also has the version of the weights that sampled it. A turn of a context that is
kept here brings what is new alone (`contexts.py`).
"""

from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import ray
from verl.workers.rollout.replica import TokenOutput

from trm_agent.fork_server.root_logger import kept_root_logger
from trm_agent.verl_plugin.rollout.busy import BusyClock, Reading, counted
from trm_agent.verl_plugin.rollout.contexts import CONTEXT, UNKNOWN_CONTEXT, KeptContexts
from trm_agent.verl_plugin.rollout.distributions import RECORD, RECORDED, Recorded, unpack
from trm_agent.verl_plugin.rollout.engine_start import let_engine_fork
from trm_agent.verl_plugin.rollout.playing_server import PlayingMixin
from trm_agent.verl_plugin.rollout.seldom_outputs import joined, let_rest
from trm_agent.verl_plugin.rollout.versions import PARTIAL, VERSION
from trm_agent.verl_plugin.rollout.weight_socket import tell_engine

with kept_root_logger():
    from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica
    from vllm.logprobs import FlatLogprobs, Logprob


@dataclass
class _Request:
    num: int
    """Log-probs to record for each token."""
    is_partial: bool
    """Whether the caller goes on with a turn that an update cuts."""
    recorded: Recorded | None = None
    version: int | None = None
    """That of the weights, when the engine got the request."""
    prompt_ids: list[int] | None = None
    """The tokens of the prompt, for which its last one stands on the way through verl's server; None where they do."""


# sampling parameters that vLLM does not know
_OURS = (RECORD, PARTIAL, CONTEXT)
_REQUEST: ContextVar[_Request | None] = ContextVar("trm_request", default=None)


class RecordingServer(PlayingMixin, vLLMHttpServer):
    """A server that records the distributions that a request's `RECORD` asks for, and may play episodes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        tell_engine()

    async def run_server(self, args: Any) -> None:
        # one for each episode in play, and as many again for a server to which more than its share have come
        self._contexts = KeptContexts(2 * int(self.config.get("max_num_seqs", 1024)))
        self._clock = BusyClock()
        let_engine_fork(args)
        await super().run_server(args)
        engine: Any = self.engine
        plain = engine.generate

        def generate(*, sampling_params: Any, **kwargs: Any) -> AsyncIterator[Any]:
            request = _REQUEST.get()
            if request is None:
                return plain(sampling_params=sampling_params, **kwargs)
            request.version = self.global_steps
            if request.prompt_ids is not None:
                kwargs["prompt"] = {**kwargs["prompt"], "prompt_token_ids": request.prompt_ids}
            if not request.num:
                let_rest(sampling_params)
                return joined(plain(sampling_params=sampling_params, **kwargs))
            # a set that is kept may have as many tokens as the vocabulary
            sampling_params.logprobs = min(request.num, engine.model_config.get_vocab_size())
            # one list for all candidates, none of which is decoded to text
            sampling_params.flat_logprobs, sampling_params.detokenize = True, False
            return _record(plain(sampling_params=sampling_params, **kwargs), request)

        engine.generate = lambda **asked: counted(generate(**asked), self._clock)

    async def generate(
        self, prompt_ids: list[int], sampling_params: dict[str, Any], *args: Any, **kwargs: Any
    ) -> TokenOutput:
        request = _Request(sampling_params.get(RECORD, 0), bool(sampling_params.get(PARTIAL)))
        context = sampling_params.get(CONTEXT)
        sampling_params = {key: value for key, value in sampling_params.items() if key not in _OURS}
        if context is not None:
            episode, start = context
            kept = self._contexts.grown(episode, start, prompt_ids)
            if kept is None:
                told = {"global_steps": self.global_steps}
                return TokenOutput(token_ids=[], stop_reason=UNKNOWN_CONTEXT, extra_fields=told)
            prompt_ids = self._stand_in(kept, request, sampling_params)
        token = _REQUEST.set(request)
        try:
            output = await super().generate(prompt_ids, sampling_params, *args, **kwargs)
        finally:
            _REQUEST.reset(token)
        if request.num:
            output.extra_fields[RECORDED] = request.recorded
        if request.is_partial and output.token_ids:
            output.extra_fields[VERSION] = only_version(request.version, output.extra_fields["global_steps"])
        return output

    def _stand_in(self, kept: list[int], request: _Request, sampling_params: dict[str, Any]) -> list[int]:
        """Return the prompt for verl's server, which looks at each token: the last one, where it needs no other.

        Args:
            kept: the whole context.
            request: gets it, if the engine has to have it from there.
            sampling_params: with `max_tokens`, which is cut to the room behind the context, as verl does.

        Raises:
            ValueError: there is no room.
        """
        if self.model_config.processor is not None:  # verl takes tokens of images out
            return kept
        room = self.config.max_model_len - len(kept)
        if room < 1:
            raise ValueError(
                f"a prompt of {len(kept)} tokens leaves no room for one more in the engine's context of "
                f"{self.config.max_model_len} (actor_rollout_ref.rollout.max_model_len)"
            )
        sampling_params["max_tokens"] = min(sampling_params["max_tokens"], room)
        request.prompt_ids = kept
        return kept[-1:]

    async def busy(self) -> Reading:
        """Return for how long the engine has had turns to sample."""
        return self._clock.read()

    async def opened(self) -> None:
        """Wait until the server takes requests: no update is under way."""
        await self._resume_event.wait()

    async def _park_until_admitted(self, request_id: str) -> TokenOutput | None:
        request = _REQUEST.get()
        if request is not None and request.is_partial and self._submission_paused:
            # its caller waits at the door, where a limit of the episode can tell that it waits
            return TokenOutput(token_ids=[], stop_reason="aborted", extra_fields={"global_steps": self.global_steps})
        parked: TokenOutput | None = await super()._park_until_admitted(request_id)
        return parked


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
            if completion.token_ids:  # else it was cut before its first token
                flat = completion.logprobs
                request.recorded, sampled = unpack(flat.token_ids, flat.logprobs, len(completion.token_ids))
                rows = zip(completion.token_ids, sampled.tolist(), strict=True)
                completion.logprobs = [{token_id: Logprob(logprob=value)} for token_id, value in rows]
        yield output


def only_version(at_start: int | None, at_end: int | None) -> int:
    """Return the version of the weights that sampled all tokens of an answer.

    Args:
        at_start: the version when the engine got the request.
        at_end: the version when it had answered.

    Raises:
        RuntimeError: they differ, so that nobody knows which of them sampled a token.
    """
    if at_start is None or at_start != at_end:
        raise RuntimeError(
            f"the weights went from version {at_start} to {at_end} while a turn was sampled; verl cuts turns before it "
            "updates weights: install verl==0.9.1"
        )
    return at_start
