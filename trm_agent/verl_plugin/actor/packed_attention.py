"""An attention function of transformers for sequences that stand behind each other in one row, without flash-attn.

On a CPU, and in float32 on CUDA, each sequence is a call of torch's own causal attention, without a mask of tokens by
tokens. In half precision on CUDA one call of torch's attention for sequences of various lengths takes the whole row.
"""

import functools
import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from trm_agent.verl_plugin.actor.exchange import heads_of_all_tokens, repeated_for_ranks, tokens_of_all_heads

ATTENTION = "trm_packed"
# the argument of the model's forward pass that its layers hand to the attention
ROW = "packed_row"
# what torch's kernel for various lengths takes
_KERNEL_DTYPES = (torch.float16, torch.bfloat16)
_KERNEL_CAPABILITY, _KERNEL_WIDTH, _KERNEL_WIDTH_STEP = (8, 0), 256, 8


@dataclass(frozen=True)
class PackedRow:
    """The sequences of a packed row; every layer of a forward pass reads the same."""

    lengths: tuple[int, ...]
    """Tokens of each sequence, none of them 0."""
    borders: torch.Tensor
    """Positions where sequences begin and the last one ends, int32, shape (sequences + 1,)."""
    longest: int
    """Tokens of the longest sequence."""
    group: Any = None
    """Ranks that share the row's tokens, a group of torch.distributed; None for this one alone."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str, group: Any = None) -> "PackedRow":
        """Return the row of sequences of some lengths, for tensors on a device."""
        borders = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device)
        return cls(tuple(lengths), borders, max(lengths), group)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each sequence of a packed row; an attention function of transformers.

    Args:
        module: the attention layer.
        query: shape (1, heads, tokens, width); with Ulysses the tokens of this rank.
        key, value: shape (1, key heads, tokens, width).
        attention_mask: what the row's mask would have held, as `_marker` left it.
        dropout: probability.
        scaling: of the scores; None for 1 / sqrt(width).
        sliding_window: number of tokens that a token sees, itself included; None for all before it.
        kwargs: `packed_row`, and what other layers use.

    Returns:
        Shape (1, tokens, heads, width), and None for the weights.

    Raises:
        KeyError: the model does not hand the row to its attention.
        ValueError: the layer asks for more than causality and a window, or its mask holds another window.
    """
    _check(module, attention_mask, sliding_window, kwargs)
    row: PackedRow = kwargs[ROW]
    query, key, value = _lowered(query, key, value)
    if row.group is not None:
        ranks = torch.distributed.get_world_size(row.group)
        query = heads_of_all_tokens(query, row.group)
        key, value = (heads_of_all_tokens(repeated_for_ranks(each, ranks), row.group) for each in (key, value))
    attend = _by_kernel if _has_kernel(query, value, dropout) else _by_sequence
    output = attend(query, key, value, row, dropout=dropout, scaling=scaling, window=sliding_window or None)
    if row.group is not None:
        output = tokens_of_all_heads(output, row.group)
    return output.transpose(1, 2).contiguous(), None


def _check(module: torch.nn.Module, mask: torch.Tensor | None, window: int | None, others: dict[str, Any]) -> None:
    """Refuse a layer that attends otherwise than causally within a window."""
    if mask is None or mask.shape != (1, 1, 0, window or 0):
        raise ValueError(f"a mask of tokens by tokens that is not the layer's, of window {window}")
    # a cap on the scores, and scores of their own that heads add
    extras = [name for name in ("softcap", "s_aux") if others.get(name) is not None]
    is_causal = others.get("is_causal")
    if extras or not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        raise ValueError(f"an attention that is not causal, or with {' and '.join(extras) or 'more'}")


def _lowered(*states: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Round to the dtype of an autocast, as torch's own attention does in one."""
    device = states[0].device.type
    if not torch.is_autocast_enabled(device):
        return states
    return tuple(each.to(torch.get_autocast_dtype(device)) for each in states)


def _by_sequence(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row: PackedRow,
    *,
    dropout: float,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Attend by one call a sequence. Shapes (1, heads, tokens, width)."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    outputs = []
    parts = (states.split(row.lengths, dim=2) for states in (query, key, value))
    for of_query, of_key, of_value in zip(*parts, strict=True):
        mask = _window(of_query.shape[2], window, query.device)
        outputs.append(
            torch.nn.functional.scaled_dot_product_attention(
                of_query, of_key, of_value, attn_mask=mask, dropout_p=dropout, scale=scaling, is_causal=mask is None
            )
        )
    return torch.cat(outputs, dim=2)


def _window(length: int, size: int | None, device: torch.device) -> torch.Tensor | None:
    """Return which key a query sees, shape (length, length); None for every one up to itself."""
    if size is None or length <= size:
        return None
    place = torch.arange(length, device=device)
    behind = place.unsqueeze(1) - place
    return (behind >= 0) & (behind < size)


def _by_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row: PackedRow,
    *,
    dropout: float,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Attend by one call for the row. Shapes (1, heads, tokens, width), dropout 0."""
    assert dropout == 0, "the kernel has none"
    attend, parameters = _kernel()
    assert attend is not None, "_has_kernel was asked"
    options = kernel_options(parameters, query.shape[1] != key.shape[1], scaling, window)
    by_token = (states.squeeze(0).transpose(0, 1) for states in (query, key, value))
    output = attend(*by_token, row.borders, row.borders, row.longest, row.longest, **options)
    return output.transpose(0, 1).unsqueeze(0)


def kernel_options(
    parameters: Collection[str], is_grouped: bool, scaling: float | None, window: int | None
) -> dict[str, Any]:
    """Return the keyword arguments of torch's attention for various lengths.

    Args:
        parameters: names of those that the installed function has; a torch without `enable_gqa` takes fewer key heads
            as they are, a later one asks for it.
        is_grouped: whether there are fewer key heads than heads.
        scaling: see `packed_attention`.
        window: see `packed_attention`; the kernel counts the tokens before the query's own.
    """
    options: dict[str, Any] = {"scale": scaling, "window_size": (-1 if window is None else window - 1, 0)}
    if is_grouped and "enable_gqa" in parameters:
        options["enable_gqa"] = True
    return options


def _has_kernel(query: torch.Tensor, value: torch.Tensor, dropout: float) -> bool:
    """Return True if torch's attention for various lengths takes these tensors."""
    if not query.is_cuda or query.dtype not in _KERNEL_DTYPES or dropout:
        return False
    width = query.shape[-1]
    fits = width == value.shape[-1] <= _KERNEL_WIDTH and width % _KERNEL_WIDTH_STEP == 0
    # an older function knows neither windows nor the scale
    return fits and _capability(query.device) >= _KERNEL_CAPABILITY and "window_size" in _kernel()[1]


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


@functools.cache
def _kernel() -> tuple[Callable[..., Any] | None, frozenset[str]]:
    """Return torch's attention for various lengths, None before torch 2.10, and the names of its parameters."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None, frozenset()
    return varlen_attn, frozenset(inspect.signature(varlen_attn).parameters)


def _marker(*_: Any, local_size: int | None = None, use_vmap: bool = False, **__: Any) -> torch.Tensor:
    """Return in a mask's place its window, 0 for none, as a width: shape (1, 1, 0, window).

    A window or chunk that stands in the mask alone would be lost: the attention compares this with its argument,
    which waits for no device.

    Raises:
        ValueError: the model adds a mask of its own, which transformers asks to be computed token by token.
    """
    if use_vmap:
        raise ValueError("a mask of the model's own")
    return torch.empty(1, 1, 0, local_size or 0, dtype=torch.bool)


def register() -> None:
    """Register the attention with transformers. Idempotent."""
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, packed_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, _marker)
