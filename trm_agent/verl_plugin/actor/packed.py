"""Models that take the sequences of a micro-batch behind each other, without padding, and without flash-attn.

verl's `use_remove_padding` packs a micro-batch into one row of tokens; `packed_attention` then keeps the sequences
apart. Whether a model does so rightly is tried: its packed logits have to be the padded ones.

In a causal model nothing reads the last layer's output but the heads that predict: the logits, and the feed-forward
part of the last layer, are computed only where the next token was sampled. Values and gradients are those of the whole
computation, to rounding.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from trm_agent.verl_plugin.actor.packed_attention import ATTENTION, ROW, PackedRow, register
from trm_agent.verl_plugin.actor.shard import Shard

# of a row's logits, relative to their spread: float32 sums in another order stay far below
TOLERANCE = 1e-3
# the same where layers round to half precision: so many times what two right computations differ by, within limits
HALF_TOLERANCE, HALF_LIMITS = 4.0, (0.02, 0.25)
# tokens; up to here the effect of a window is probed, beyond it is only seen to be an argument of the attention
SHORT_WINDOW = 64
_Result = TypeVar("_Result")
# what a probe raises that says nothing about the model
_NOT_THE_MODELS = (torch.OutOfMemoryError, MemoryError, torch.distributed.DistError)


@dataclass
class Packing:
    """A model whose packed forward pass was found to agree with the padded one."""

    rows: torch.Tensor | None = None
    """Packed positions that predict a sampled token, for the micro-batch at hand; None for all."""
    local_rows: torch.Tensor | None = None
    """Where in this rank's part of the row it computes logits; None for all of it."""
    takes_rows: bool = False
    """The model's `logits_to_keep` was found to work."""

    def arguments(self, row: PackedRow, shard: Shard, rows: torch.Tensor | None) -> dict[str, Any]:
        """Return the further arguments of the model's forward pass over a micro-batch.

        Args:
            row: its sequences, with what verl fills it up with as a last one.
            shard: this rank's part of the row.
            rows: ascending packed positions whose logits are asked for; None for all.
        """
        self.rows = rows if self.takes_rows else None
        self.local_rows = None if self.rows is None else shard.local(self.rows)
        given: dict[str, Any] = {ROW: row}
        return given if self.local_rows is None else given | {"logits_to_keep": self.local_rows}


def pack(
    model: torch.nn.Module,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    group: Any = None,
) -> Packing | None:
    """Let a causal model take packed sequences, if it does so rightly; with several ranks, on all of them or on none.

    A pass that raises on one rank alone, before the ranks of FSDP meet in it, leaves the others waiting until the
    limit of their process group: of a model's own fault, which all ranks share, there is one verdict.

    Args:
        model: of transformers, with `sdpa` attention; it is left as it was if this returns None.
        dtype: that its layers compute in.
        device: of its inputs; None for that of its parameters.
        group: ranks that share the tokens of a row, a group of torch.distributed; None for this one alone.

    Returns:
        The packing; None for a model whose layers keep sequences apart in another way, or not at all. A pass that
        raised is printed.

    Raises:
        torch.OutOfMemoryError, MemoryError, torch.distributed.DistError: a pass ended so, whatever the model.
    """
    register()
    # of a model with images too, the part that has a vocabulary
    whole: Any = model.config
    shape = whole.get_text_config()
    if shape._attn_implementation != "sdpa" or _is_chunked(shape):
        return None
    # verl gives a model with images the whole row, and cuts it up behind the embedding
    if group is not None and (hasattr(whole, "vision_config") or _reads_lengths(shape)):
        return None
    device = torch.device(device or next(model.parameters()).device)
    with _evaluating(model, dtype, device):
        return _found_right(model, shape, _Sample.of(shape, device, group), dtype)


def attention_of(model: torch.nn.Module) -> str:
    """Return the name of a model's attention function."""
    whole: Any = model.config
    return whole.get_text_config()._attn_implementation


def _is_chunked(shape: Any) -> bool:
    """Return True if a layer may attend within chunks, which no argument of an attention states."""
    kinds = getattr(shape, "layer_types", None) or ()
    return "chunked_attention" in kinds or bool(getattr(shape, "attention_chunk_size", None))


def _reads_lengths(shape: Any) -> bool:
    """Return True if positions are turned by the length of the longest sequence, of which a rank may see a part."""
    given = getattr(shape, "rope_parameters", None) or {}
    kinds = [given, *(each for each in given.values() if isinstance(each, dict))]
    return any(word in str(kind.get("rope_type", "")) for kind in kinds for word in ("dynamic", "longrope"))


def _found_right(model: torch.nn.Module, shape: Any, sample: "_Sample", dtype: torch.dtype) -> Packing | None:
    """Switch the attention; return the packing, or None with the attention as it was if the logits are others."""
    packing = Packing()
    wanted = _tried("padded", lambda: _wanted(model, sample, dtype))
    if not _everywhere(wanted is not None, sample.device):
        return None
    assert wanted is not None
    expected, tolerance = wanted
    shape._attn_implementation = ATTENTION
    found = _tried("packed", lambda: sample.packed(model, packing, None))
    if not _everywhere(found is not None and _distance(found, expected) <= tolerance, sample.device):
        shape._attn_implementation = "sdpa"
        # FSDP 2 is still within a pass that raised: a whole one ends it, and the next waits for its parameters again
        sample.padded(model)
        return None
    if "logits_to_keep" in inspect.signature(_innermost(model).forward).parameters:
        packing.takes_rows = _takes_rows(model, packing, sample, expected, tolerance)
    return packing


def _wanted(model: torch.nn.Module, sample: "_Sample", dtype: torch.dtype) -> tuple[torch.Tensor, float]:
    """Return the padded logits, and the error that others may have."""
    expected = sample.padded(model)
    return expected, TOLERANCE if dtype.itemsize >= 4 else _half_tolerance(sample.alone(model), expected)


def _tried(kind: str, compute: Callable[[], _Result]) -> _Result | None:
    """Return what a pass computes; None, with the reason printed, where the model raises anything of its own."""
    try:
        return compute()
    except _NOT_THE_MODELS:
        raise
    except Exception as error:  # whatever a foreign model raises, it cannot be packed
        reason = (str(error).strip() or "no message").splitlines()[0]
        print(f"engine: the probe's {kind} pass raised {type(error).__name__}: {reason}", flush=True)
        return None


def _takes_rows(
    model: torch.nn.Module, packing: Packing, sample: "_Sample", expected: torch.Tensor, tolerance: float
) -> bool:
    """Limit the last layer to the rows that are asked for; return False, with nothing limited, if they are others."""
    packing.takes_rows = True
    restore = _limit_last_layer(_innermost(model), packing)
    found = _tried("limited", lambda: sample.packed(model, packing, sample.rows))
    packing.rows = packing.local_rows = None
    if not _everywhere(found is not None and _distance(found, expected[sample.rows]) <= tolerance, sample.device):
        restore()
        # as above
        packing.takes_rows = False
        sample.packed(model, packing, None)
        return False
    return True


def _innermost(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model of transformers within FSDP 1 and an adapter, whose own arguments are any."""
    within: Any = getattr(model, "_fsdp_wrapped_module", model)
    base = getattr(within, "get_base_model", None)
    return within if base is None else base()


def _limit_last_layer(model: torch.nn.Module, packing: Packing) -> Callable[[], None]:
    """Let the feed-forward part of the last layer skip rows whose output nobody reads; return how to undo it."""
    layers = getattr(getattr(model, "model", None), "layers", None)
    mlp = getattr(layers[-1], "mlp", None) if layers else None
    if mlp is None:
        return lambda: None
    whole = mlp.forward

    def limited(hidden: torch.Tensor) -> torch.Tensor:
        rows = packing.local_rows
        if rows is None:
            return whole(hidden)
        # the residual stream goes on at the other rows, where it is not read
        found = whole(hidden.index_select(1, rows))
        return hidden.new_zeros(hidden.shape, dtype=found.dtype).index_copy(1, rows, found)

    def restore() -> None:
        mlp.forward = whole

    mlp.forward = limited
    return restore


@dataclass(frozen=True)
class _Sample:
    """Three sequences of random tokens, one of them a single token, the last one longer than a short window."""

    sequences: list[torch.Tensor]
    rows: torch.Tensor
    group: Any = None

    @classmethod
    def of(cls, config: Any, device: torch.device, group: Any = None) -> "_Sample":
        window = getattr(config, "sliding_window", None) or 0
        lengths = (7, 1, max(12, window + 8) if window <= SHORT_WINDOW else 12)
        generator = torch.Generator().manual_seed(0)
        draw = [torch.randint(config.vocab_size, (length,), generator=generator).to(device) for length in lengths]
        return cls(draw, torch.tensor([2, 5, 7, 8, 14, sum(lengths) - 2], device=device), group)

    @property
    def device(self) -> torch.device:
        return self.rows.device

    def padded(self, model: torch.nn.Module) -> torch.Tensor:
        """Return the logits of all tokens, shape (tokens, vocab)."""
        ids = torch.nn.utils.rnn.pad_sequence(self.sequences, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(item) for item in self.sequences], batch_first=True)
        places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        return model(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False).logits[mask.bool()]

    def alone(self, model: torch.nn.Module) -> torch.Tensor:
        """Return the same, of one forward pass a sequence."""
        return torch.cat([_Sample([item], self.rows).padded(model) for item in self.sequences])

    def packed(self, model: torch.nn.Module, packing: Packing, rows: torch.Tensor | None) -> torch.Tensor:
        """Return the logits of the given rows, shape (rows, vocab)."""
        lengths = [len(item) for item in self.sequences]
        total = sum(lengths)
        tail = 0 if self.group is None else -total % torch.distributed.get_world_size(self.group)
        shard = Shard.of(total + tail, self.group)
        part = slice(shard.first, shard.first + shard.size)
        ids = torch.nn.functional.pad(torch.cat(self.sequences), (0, tail))
        places = torch.cat([torch.arange(length, device=self.device) for length in (*lengths, tail)])
        row = PackedRow.of([*lengths, tail] if tail else lengths, self.device, self.group)
        given = {"input_ids": ids[part].unsqueeze(0), "position_ids": places[part].unsqueeze(0), "attention_mask": None}
        logits = model(**given, use_cache=False, **packing.arguments(row, shard, rows)).logits[0]
        whole = logits.new_zeros(total + tail, logits.shape[-1])
        local = torch.arange(shard.size, device=self.device) if packing.local_rows is None else packing.local_rows
        whole[shard.first + local] = logits
        return shard.sum(whole)[slice(total) if rows is None else rows]


def _distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest error of a row of logits, as a share of their spread; infinite where they are no numbers."""
    if found.shape != expected.shape:
        return torch.inf
    errors = (found.float() - expected.float()).square().mean(dim=-1).sqrt() / expected.float().std(dim=-1)
    return float(errors.nan_to_num(torch.inf, torch.inf).max())


def _half_tolerance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest error in half precision, from two computations that differ by its rounding."""
    least, most = HALF_LIMITS
    return min(max(HALF_TOLERANCE * _distance(found, expected), least), most)


def _everywhere(is_right: bool, device: torch.device) -> bool:
    """Return True if something was found right on every rank: they have to run the same passes."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return is_right
    flag = torch.tensor(int(is_right), device=device)
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MIN)
    return bool(flag)


@contextmanager
def _evaluating(model: torch.nn.Module, dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Compute as a trainer does, without gradients and dropout."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, dtype=dtype, enabled=dtype.itemsize < 4):
            yield
    finally:
        model.train(was_training)
