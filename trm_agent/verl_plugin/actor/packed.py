"""Sequences of a micro-batch behind each other without padding, on a machine without flash-attn.

verl's `use_remove_padding` packs a micro-batch into one row of tokens; a kernel then has to keep the sequences apart.
Here each sequence is a call of torch's own causal attention, without a mask of tokens by tokens.

In a causal model nothing reads the last layer's output but the heads that predict: the logits, and the feed-forward
part of the last layer, are computed only where the next token was sampled. Values and gradients are those of the whole
computation, to rounding.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION = "trm_packed_sdpa"
# the argument of the model's forward pass that its layers hand to the attention: the lengths of the sequences
LENGTHS = "packed_lengths"
# nats, or whatever a logit is: float32 sums in another order stay far below, another computation far above
TOLERANCE = 1e-3
# tokens; up to here the effect of a window is probed, beyond it is only seen to be an argument of the attention
SHORT_WINDOW = 64


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
        query: shape (1, heads, tokens, width).
        key, value: shape (1, key heads, tokens, width).
        attention_mask: what the row's mask would have held, as `_marker` left it.
        dropout: probability.
        scaling: of the scores; None for 1 / sqrt(width).
        sliding_window: number of tokens that a token sees, itself included; None for all before it.
        kwargs: `packed_lengths`, and what other layers use.

    Returns:
        Shape (1, tokens, heads, width), and None for the weights.

    Raises:
        KeyError: the model does not hand the lengths to its attention.
        ValueError: the mask holds more than causality and the window, or another window than the layer's.
    """
    if attention_mask is None or attention_mask.shape != (1, 1, 1, 1) or attention_mask.item() != (sliding_window or 0):
        raise ValueError(f"a mask of tokens by tokens that is not the layer's, of window {sliding_window}")
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    lengths = kwargs[LENGTHS]
    outputs = []
    parts = zip(query.split(lengths, dim=2), key.split(lengths, dim=2), value.split(lengths, dim=2), strict=True)
    for of_query, of_key, of_value in parts:
        window = _window(of_query.shape[2], sliding_window, query.device)
        outputs.append(
            torch.nn.functional.scaled_dot_product_attention(
                of_query,
                of_key,
                of_value,
                attn_mask=window,
                dropout_p=dropout,
                scale=scaling,
                is_causal=window is None,
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _window(length: int, size: int | None, device: torch.device) -> torch.Tensor | None:
    """Return which key a query sees, shape (length, length); None for every one up to itself."""
    if size is None or length <= size:
        return None
    place = torch.arange(length, device=device)
    behind = place.unsqueeze(1) - place
    return (behind >= 0) & (behind < size)


def _marker(*_: Any, local_size: int | None = None, use_vmap: bool = False, **__: Any) -> torch.Tensor:
    """Return in a mask's place the window that it would hold, shape (1, 1, 1, 1), 0 for none.

    A window or chunk that stands in the mask alone would be lost: the attention compares this with its argument.

    Raises:
        ValueError: the model adds a mask of its own, which transformers asks to be computed token by token.
    """
    if use_vmap:
        raise ValueError("a mask of the model's own")
    return torch.full((1, 1, 1, 1), local_size or 0)


def register() -> None:
    """Register the attention with transformers. Idempotent."""
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, packed_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, _marker)


@dataclass
class Packing:
    """A model whose packed forward pass was found to agree with the padded one."""

    rows: torch.Tensor | None = None
    """Packed positions that predict a sampled token, for the micro-batch at hand; None for all."""
    takes_rows: bool = False
    """The model's `logits_to_keep` was found to work."""

    def arguments(self, lengths: Sequence[int], rows: torch.Tensor | None) -> dict[str, Any]:
        """Return the further arguments of the model's forward pass over a micro-batch.

        Args:
            lengths: of its sequences.
            rows: packed positions whose logits are asked for; None for all.
        """
        self.rows = rows if self.takes_rows else None
        given: dict[str, Any] = {LENGTHS: list(lengths)}
        return given if self.rows is None else given | {"logits_to_keep": self.rows}


def pack(model: torch.nn.Module) -> Packing | None:
    """Let a causal model take packed sequences, if it does so rightly.

    Args:
        model: of transformers, with `sdpa` attention; it is left as it was if this returns None.

    Returns:
        The packing; None for a model whose layers keep sequences apart in another way, or not at all.
    """
    register()
    # of a model with images too, the part that has a vocabulary
    whole: Any = model.config
    shape = whole.get_text_config()
    if shape._attn_implementation != "sdpa" or _is_chunked(shape):
        return None
    with _evaluating(model):
        return _found_right(model, shape)


def _is_chunked(shape: Any) -> bool:
    """Return True if a layer may attend within chunks, which no argument of an attention states."""
    kinds = getattr(shape, "layer_types", None) or ()
    return "chunked_attention" in kinds or bool(getattr(shape, "attention_chunk_size", None))


def _found_right(model: torch.nn.Module, shape: Any) -> Packing | None:
    """Switch the attention; return the packing, or None with the attention as it was if the logits are others."""
    packing, expected = Packing(), torch.empty(0)
    try:
        sample = _Sample.of(shape, next(model.parameters()).device)
        expected = sample.padded(model)
        shape._attn_implementation = ATTENTION
        is_right = _agree(sample.packed(model, packing, None), expected)
    except Exception:  # whatever a foreign model raises, it cannot be packed
        is_right = False
    if not is_right:
        shape._attn_implementation = "sdpa"
        return None
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        packing.takes_rows = _takes_rows(model, packing, sample, expected)
    return packing


def _takes_rows(model: torch.nn.Module, packing: Packing, sample: "_Sample", expected: torch.Tensor) -> bool:
    """Limit the last layer to the rows that are asked for; return False, with nothing limited, if they are others."""
    packing.takes_rows = True
    restore = _limit_last_layer(model, packing)
    try:
        is_right = _agree(sample.packed(model, packing, sample.rows), expected[sample.rows])
    except Exception:  # as above
        is_right = False
    packing.rows = None
    if not is_right:
        restore()
    return is_right


def _limit_last_layer(model: torch.nn.Module, packing: Packing) -> Callable[[], None]:
    """Let the feed-forward part of the last layer skip rows whose output nobody reads; return how to undo it."""
    layers = getattr(getattr(model, "model", None), "layers", None)
    mlp = getattr(layers[-1], "mlp", None) if layers else None
    if mlp is None:
        return lambda: None
    whole = mlp.forward

    def limited(hidden: torch.Tensor) -> torch.Tensor:
        if packing.rows is None:
            return whole(hidden)
        # the residual stream goes on at the other rows, where it is not read
        return torch.zeros_like(hidden).index_copy(1, packing.rows, whole(hidden.index_select(1, packing.rows)))

    def restore() -> None:
        mlp.forward = whole

    mlp.forward = limited
    return restore


@dataclass(frozen=True)
class _Sample:
    """Three sequences of random tokens, one of them a single token, the last one longer than a short window."""

    sequences: list[torch.Tensor]
    rows: torch.Tensor

    @classmethod
    def of(cls, config: Any, device: torch.device) -> "_Sample":
        window = getattr(config, "sliding_window", None) or 0
        lengths = (7, 1, max(12, window + 8) if window <= SHORT_WINDOW else 12)
        generator = torch.Generator().manual_seed(0)
        draw = [torch.randint(config.vocab_size, (length,), generator=generator).to(device) for length in lengths]
        return cls(draw, torch.tensor([2, 5, 7, 8, 14, sum(lengths) - 2], device=device))

    def padded(self, model: torch.nn.Module) -> torch.Tensor:
        """Return the logits of all tokens, shape (tokens, vocab)."""
        ids = torch.nn.utils.rnn.pad_sequence(self.sequences, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(item) for item in self.sequences], batch_first=True)
        places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        return model(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False).logits[mask.bool()]

    def packed(self, model: torch.nn.Module, packing: Packing, rows: torch.Tensor | None) -> torch.Tensor:
        """Return the logits of the given rows, shape (rows, vocab)."""
        ids = torch.cat(self.sequences).unsqueeze(0)
        places = torch.cat([torch.arange(len(item), device=ids.device) for item in self.sequences]).unsqueeze(0)
        given = packing.arguments([len(item) for item in self.sequences], rows)
        return model(input_ids=ids, attention_mask=None, position_ids=places, use_cache=False, **given).logits[0]


def _agree(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return found.shape == expected.shape and bool(((found - expected).abs() <= TOLERANCE).all())


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Compute without gradients and dropout."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
