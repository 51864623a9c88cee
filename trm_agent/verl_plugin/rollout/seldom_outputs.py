"""Outputs of vLLM at a turn's beginning and end alone, where one at each token would wake the event loop."""

from collections.abc import AsyncIterator
from typing import Any

SELDOM = 1 << 30
"""Number of tokens between two outputs of a request, beyond any turn's length."""


def let_rest(sampling_params: Any) -> None:
    """Ask for the first output and the last, without text, where an output at each token would wake the event loop.

    The first tells verl's server that the engine has the request.
    """
    from vllm.sampling_params import RequestOutputKind

    sampling_params.output_kind = RequestOutputKind.DELTA
    sampling_params.detokenize = bool(sampling_params.stop)
    if hasattr(sampling_params, "stream_interval"):  # else vLLM is an older one, with an output at each token
        sampling_params.stream_interval = SELDOM


async def joined(outputs: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Pass outputs on that each hold what is new, the last with all tokens and log-probs.

    That of a cut request may hold no new token, and vLLM then repeats log-probs that it has sent.
    """
    token_ids: list[int] = []
    log_probs: list[Any] = []
    async for output in outputs:
        for completion in output.outputs:
            new = len(completion.token_ids)
            token_ids += completion.token_ids
            log_probs += (completion.logprobs or [])[-new:] if new else []
            if output.finished:
                asked = bool(log_probs) or not token_ids
                completion.token_ids, completion.logprobs = token_ids, log_probs if asked else None
        yield output
