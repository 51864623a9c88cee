"""A client of the rollout servers whose turns go on after an update of the weights."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.rollout.replica import TokenOutput

from trm_agent.episode import Pauses
from trm_agent.verl_plugin.rollout.distributions import RECORDED, Recorded
from trm_agent.verl_plugin.rollout.versions import PARTIAL, VERSION, VERSIONS

ABORTED, COMPLETED = "aborted", "completed"


class ResumingClient(LLMServerClient):
    """A client that asks again for the rest of a turn that an update cut.

    In the place of verl's `FullyAsyncLLMServerClient`, which drops what our server records, keeps two versions of a
    turn, and asks again after a second whether or not the server takes requests.
    """

    async def generate(
        self,
        request_id: str,
        *,
        prompt_ids: list[int],
        sampling_params: dict[str, Any],
        pauses: Pauses | None = None,
        **kwargs: Any,
    ) -> TokenOutput:
        """Sample a turn, in as many parts as there are updates meanwhile.

        Args:
            request_id: the episode's, whose turns reach one server.
            prompt_ids: tokens of the context.
            sampling_params: of the turn, with `max_tokens`.
            pauses: gets the times at which no server samples.
            kwargs: verl's further arguments.

        Returns:
            The parts as one, see `joined`.
        """
        pauses = Pauses() if pauses is None else pauses
        most, sampled = sampling_params["max_tokens"], list[int]()
        parts: list[TokenOutput] = []
        while True:
            part = await super().generate(
                request_id,
                prompt_ids=[*prompt_ids, *sampled],
                sampling_params={**sampling_params, PARTIAL: True, "max_tokens": most - len(sampled)},
                **kwargs,
            )
            parts.append(part)
            sampled += part.token_ids
            if part.stop_reason != ABORTED or len(sampled) >= most:
                return joined(parts)
            with pauses.pause():
                await self._await_update(request_id, prompt_ids)

    async def _await_update(self, request_id: str, prompt_ids: list[int]) -> None:
        """Wait until the episode's server takes requests."""
        server_id, server = await self._acquire_server(request_id, prompt_ids=prompt_ids)
        try:
            await server.opened.remote()
        finally:
            self._release_server(server_id, request_id=request_id)


def joined(parts: Sequence[TokenOutput]) -> TokenOutput:
    """Join the parts of a turn.

    Args:
        parts: in the order in which they were sampled; some may be without a token.

    Returns:
        All tokens with their log-probs; in `extra_fields` what the last part has, a version for each token
        (`VERSIONS`), the least and the greatest as verl names them, and the distributions of all (`RECORDED`) where
        they were recorded.
    """
    last, full = parts[-1], [part for part in parts if part.token_ids]
    versions = [np.full(len(part.token_ids), part.extra_fields[VERSION], dtype=np.int32) for part in full]
    extra = {name: value for name, value in last.extra_fields.items() if name not in (VERSION, RECORDED)}
    extra[VERSIONS] = np.concatenate([np.zeros(0, dtype=np.int32), *versions])
    if full:
        extra["min_global_steps"], extra["max_global_steps"] = int(versions[0][0]), int(versions[-1][0])
    recorded = [each for part in full if (each := part.extra_fields.get(RECORDED)) is not None]
    if recorded and len(recorded) == len(full):
        extra[RECORDED] = Recorded(
            np.concatenate([each.ids for each in recorded]), np.concatenate([each.log_probs for each in recorded])
        )
    preempted = [part.num_preempted for part in parts if part.num_preempted is not None]
    return TokenOutput(
        token_ids=[token for part in full for token in part.token_ids],
        log_probs=[value for part in full for value in part.log_probs or ()],
        stop_reason=COMPLETED if last.stop_reason == ABORTED else last.stop_reason,
        num_preempted=sum(preempted) if preempted else None,
        extra_fields=extra,
    )
