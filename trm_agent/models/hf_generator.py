"""A transformers model as the engine of episodes: slow beside vLLM, but one object in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trm_agent.episode import Generation
from trm_fields import ABOVE_0


@dataclass(frozen=True)
class Request:
    """A turn that waits to be sampled."""

    prompt_ids: list[int]
    max_tokens: int
    answer: asyncio.Future[Generation]


class HuggingFaceGenerator:
    """Sample turns with a transformers model; episodes that wait at the same time are sampled as one batch.

    It implements `trm_agent.episode.Generator`. The model's own mode and weights are used as they are when a batch
    begins, so weights may be updated between two episodes.

    Args:
        model: a causal language model, on any device.
        stop_token_ids: tokens that end a turn (`ChatTokens.stop_token_ids`).
        temperature: divides the logits, both for sampling and in the log-probs that are returned.
        seed: of the sampling.
        max_batch: most turns sampled at once.
        gather_s: seconds to wait for other episodes before a batch begins.

    Raises:
        ValueError: a temperature or a batch size that is not above 0.
    """

    def __init__(
        self,
        model: Any,
        stop_token_ids: Sequence[int],
        *,
        temperature: float = 1.0,
        seed: int = 0,
        max_batch: int = 128,
        gather_s: float = 0.02,
    ) -> None:
        for name, value in (("temperature", temperature), ("max_batch", max_batch)):
            ABOVE_0.check(name, value, "raise it")
        self.model, self.temperature = model, temperature
        self.max_batch, self.gather_s = max_batch, gather_s
        self._stop = torch.tensor(sorted(stop_token_ids), device=model.device)
        self._random = torch.Generator(model.device).manual_seed(seed)
        self._waiting: list[Request] = []
        self._server: asyncio.Task[None] | None = None

    async def generate(self, prompt_ids: list[int], max_tokens: int) -> Generation:
        """Sample one turn of at most `max_tokens` tokens after `prompt_ids`."""
        request = Request(list(prompt_ids), max_tokens, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if self._server is None or self._server.done():
            self._server = asyncio.create_task(self._serve())
        return await request.answer

    async def _gather(self) -> None:
        """Wait for other episodes before a batch begins."""
        await asyncio.sleep(self.gather_s)

    async def _serve(self) -> None:
        while self._waiting:
            await self._gather()
            batch, self._waiting = self._waiting[: self.max_batch], self._waiting[self.max_batch :]
            try:
                generations = await asyncio.to_thread(self._sample, batch)
            except Exception as error:
                for request in batch:
                    if not request.answer.done():
                        request.answer.set_exception(error)
                continue
            for request, generation in zip(batch, generations, strict=True):
                if not request.answer.done():
                    request.answer.set_result(generation)

    @torch.inference_mode()
    def _sample(self, batch: Sequence[Request]) -> list[Generation]:
        input_ids, attended = _left_padded([request.prompt_ids for request in batch], self.model.device)
        limits = torch.tensor([request.max_tokens for request in batch], device=self.model.device)
        position = attended.sum(-1) - 1
        finished = torch.zeros(len(batch), dtype=torch.bool, device=self.model.device)
        output = self.model(
            input_ids=input_ids,
            attention_mask=attended,
            position_ids=(attended.cumsum(-1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        sampled: list[Tensor] = []
        log_probs: list[Tensor] = []
        while True:
            distribution = (output.logits[:, -1].float() / self.temperature).log_softmax(-1)
            tokens = torch.multinomial(distribution.exp(), 1, generator=self._random)
            sampled.append(tokens[:, 0])
            log_probs.append(distribution.gather(-1, tokens)[:, 0])
            finished |= torch.isin(tokens[:, 0], self._stop)
            if (finished | (limits <= len(sampled))).all():
                break
            position = position + 1
            attended = torch.cat([attended, attended.new_ones(len(batch), 1)], dim=-1)
            output = self.model(
                input_ids=tokens,
                attention_mask=attended,
                position_ids=position[:, None],
                past_key_values=output.past_key_values,
                use_cache=True,
            )
        return self._turns(batch, torch.stack(sampled, -1), torch.stack(log_probs, -1))

    def _turns(self, batch: Sequence[Request], sampled: Tensor, log_probs: Tensor) -> list[Generation]:
        """Cut each row behind its first stop token, or at its limit."""
        stops = torch.isin(sampled, self._stop)
        turns = []
        for row, request in enumerate(batch):
            found = stops[row, : request.max_tokens].nonzero()
            length = int(found[0]) + 1 if len(found) else request.max_tokens
            turns.append(
                Generation(
                    token_ids=sampled[row, :length].tolist(),
                    log_probs=log_probs[row, :length].tolist(),
                    finished=bool(len(found)),
                )
            )
        return turns


def _left_padded(rows: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask, shape (batch, longest), with the padding on the left."""
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=device)
    attended = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, attended
