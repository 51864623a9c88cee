"""A transformers model as the engine of episodes that take their turns together and keep what it has computed.

`HuggingFaceGenerator` reads each turn's whole context anew, which for an episode of n turns costs n contexts. Here the
keys and values of every episode stay from turn to turn, so that a turn costs its own tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from trm_agent.episode import Generation
from trm_agent.models.hf_generator import HuggingFaceGenerator, Request

GROUPED = "trm_grouped"
_ROOM = 256


class LockstepGenerator(HuggingFaceGenerator):
    """Sample turns of episodes that are in play at the same time, each time one turn of all of them.

    The model must not change while its episodes are in play. `playing` says how many are; a turn begins when so many
    wait for theirs.

    Args:
        model: a causal language model whose layers all attend to the whole context; see `suits`.
        stop_token_ids, temperature, seed: as for `HuggingFaceGenerator`.
    """

    def __init__(self, model: Any, stop_token_ids: Sequence[int], *, temperature: float = 1.0, seed: int = 0) -> None:
        super().__init__(model, stop_token_ids, temperature=temperature, seed=seed, max_batch=1 << 30)
        self.playing = 0
        self._kept = _Kept(model)

    async def _gather(self) -> None:
        while len(self._waiting) < self.playing:
            await asyncio.sleep(self.gather_s)

    @torch.inference_mode()
    def _sample(self, batch: Sequence[Request]) -> list[Generation]:
        contexts = [request.prompt_ids for request in batch]
        with _grouped_attention(self.model):
            logits = self._kept.read(contexts)
            limits = torch.tensor([request.max_tokens for request in batch], device=self.model.device)
            finished = torch.zeros(len(batch), dtype=torch.bool, device=self.model.device)
            sampled: list[Tensor] = []
            log_probs: list[Tensor] = []
            while True:
                distribution = (logits.float() / self.temperature).log_softmax(-1)
                tokens = self._draw(distribution.exp())
                sampled.append(tokens[:, 0])
                log_probs.append(distribution.gather(-1, tokens)[:, 0])
                finished |= torch.isin(tokens[:, 0], self._stop) | (limits <= len(sampled))
                if finished.all():
                    break
                logits = self._kept.append(tokens, ~finished)
        return self._turns(batch, torch.stack(sampled, -1), torch.stack(log_probs, -1))

    def _draw(self, probs: Tensor) -> Tensor:
        """Draw a token for each row by one number, not by one for each token of the vocabulary; shape (rows, 1)."""
        sums = probs.cumsum(-1, dtype=torch.float64)
        total = sums[:, -1:]
        draws = total * torch.rand(total.shape, dtype=torch.float64, device=total.device, generator=self._random)
        # rounding may not lift a draw to the total, beyond which there is no token
        below = torch.minimum(draws, torch.nextafter(total, torch.zeros_like(total)))
        return torch.searchsorted(sums, below, right=True).clamp_(max=probs.shape[-1] - 1)


def suits(config: Any) -> bool:
    """Return True if every layer of a model attends to its whole context, so that gaps in it can be masked."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return set(kinds) <= {"full_attention"}
    window = getattr(config, "sliding_window", None)
    return window is None and not hasattr(config, "ssm_cfg") and not hasattr(config, "state_size")


class _Kept:
    """Keys and values of the episodes in play: a row each, and a column for each token that any of them has.

    A row's tokens stand in order, with gaps where only other rows had tokens.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._forget()

    def _forget(self) -> None:
        self._tokens: list[list[int]] = []
        self._layers = [_Roomy() for _ in range(self.model.config.get_text_config().num_hidden_layers)]
        self._cache = Cache(layers=list(self._layers))
        # shape (rows, columns)
        self._is_there = torch.zeros((0, 0), dtype=torch.bool, device=self.model.device)

    def read(self, contexts: Sequence[Sequence[int]]) -> Tensor:
        """Compute what is new of the contexts; return the logits after each, shape (rows, vocabulary)."""
        rows = self._rows_of(contexts)
        if rows is None:
            self._begin(contexts)
        elif rows != list(range(len(self._tokens))):
            self._select(rows)
        new = [list(context[len(row) :]) for context, row in zip(contexts, self._tokens, strict=True)]
        width = max(map(len, new))
        ids = torch.tensor([[0] * (width - len(each)) + each for each in new], device=self.model.device)
        mask = torch.tensor([[False] * (width - len(each)) + [True] * len(each) for each in new])
        return self._forward(ids, mask.to(self.model.device))

    def _begin(self, contexts: Sequence[Sequence[int]]) -> None:
        """Compute what all contexts begin with, once: the system's message and the tools."""
        self._forget()
        self._tokens = [[]]
        self._is_there = self._is_there.new_zeros((1, 0))
        # the logits that are asked for stand after a token of each row's own
        columns = zip(*(context[:-1] for context in contexts), strict=False)
        shared = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
        if shared and len(contexts) > 1:
            ids = torch.tensor([shared], device=self.model.device)
            self._forward(ids, torch.ones_like(ids, dtype=torch.bool))
        self._select([0] * len(contexts))

    def append(self, tokens: Tensor, is_new: Tensor) -> Tensor:
        """Add a token to the rows that have a new one; return the logits after it, shape (rows, vocabulary).

        Args:
            tokens: shape (rows, 1).
            is_new: shape (rows,).
        """
        return self._forward(tokens, is_new[:, None])

    def _forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        before = self._is_there.shape[1]
        self._is_there = torch.cat([self._is_there, mask], dim=1)
        positions = (self._is_there.sum(-1, keepdim=True) - mask.sum(-1, keepdim=True) + mask.cumsum(-1) - 1).clamp(
            min=0
        )
        width = ids.shape[1]
        # shape (rows, 1, new columns, all columns); a gap sees itself, since the mean over nothing is no number
        allowed = self._is_there[:, None, None, :].expand(-1, 1, width, -1)
        seen = torch.ones((width, before + width), dtype=torch.bool, device=ids.device).tril(before)
        itself = torch.eye(width, dtype=torch.bool, device=ids.device)
        allowed = allowed & seen
        allowed[..., before:] |= itself
        output = self.model(
            input_ids=ids,
            attention_mask=allowed,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        for row, tokens, there in zip(self._tokens, ids.tolist(), mask.tolist(), strict=True):
            row += [token for token, is_there in zip(tokens, there, strict=True) if is_there]
        return output.logits[:, -1]

    def _rows_of(self, contexts: Sequence[Sequence[int]]) -> list[int] | None:
        """Return the row that each context goes on from; None if one begins anew, as all do at first."""
        left = dict(enumerate(self._tokens))
        found = []
        for context in contexts:
            row = next((row for row, kept in left.items() if kept == list(context[: len(kept)])), None)
            if row is None:
                return None
            del left[row]
            found.append(row)
        return found

    def _select(self, rows: list[int]) -> None:
        chosen = torch.tensor(rows, device=self.model.device)
        self._tokens = [list(self._tokens[row]) for row in rows]
        self._is_there = self._is_there[chosen]
        for layer in self._layers:
            layer.batch_select_indices(chosen)


class _Roomy(DynamicLayer):
    """A layer's keys and values with room for more, so that a new column copies no old one."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add columns; return all keys and values, shape (rows, heads, columns, width of a head)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            shape = key_states.shape
            self._all = key_states.new_empty((2, shape[0], shape[1], 0, shape[3]))
            self._used = 0
        used = self._used + key_states.shape[2]
        if used > self._all.shape[3]:
            shape = self._all.shape
            larger = self._all.new_empty((*shape[:3], used + used // 2 + _ROOM, shape[4]))
            larger[..., : self._used, :] = self._all[..., : self._used, :]
            self._all = larger
        self._all[0, :, :, self._used : used] = key_states
        self._all[1, :, :, self._used : used] = value_states
        self._used = used
        self.keys, self.values = self._all[0, :, :, :used], self._all[1, :, :, :used]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows alone, in this order."""
        if self.is_initialized:
            self._all = self._all[:, indices]
            self.keys, self.values = self._all[0, :, :, : self._used], self._all[1, :, :, : self._used]


def grouped_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend with several query heads to one key head without a copy of the key head for each.

    The query heads of a key head stand as further positions of the query: they see the same columns.

    Args:
        query: shape (rows, query heads, new columns, width of a head).
        key, value: shape (rows, key heads, columns, width of a head).
        attention_mask: True where a column is seen, shape (rows, 1, new columns, columns).

    Returns:
        The output, shape (rows, new columns, query heads, width of a head), and no weights.
    """
    assert attention_mask is not None, "the mask is always given here"
    rows, heads, width, size = query.shape
    key_heads = key.shape[1]
    group = heads // key_heads
    grouped = query.reshape(rows, key_heads, group * width, size)
    mask = attention_mask.repeat(1, 1, group, 1)
    out = torch.nn.functional.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling)
    return out.reshape(rows, heads, width, size).transpose(1, 2).contiguous(), None


@contextmanager
def _grouped_attention(model: Any) -> Iterator[None]:
    """Let a model attend by `grouped_attention`."""
    before = model.config._attn_implementation
    ALL_ATTENTION_FUNCTIONS.register(GROUPED, grouped_attention)
    model.set_attn_implementation(GROUPED)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
