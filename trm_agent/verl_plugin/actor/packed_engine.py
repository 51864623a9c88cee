"""verl's FSDP engine with packed micro-batches where there is no flash-attn, logits only where tokens were sampled."""

from typing import Any

import torch
from tensordict import TensorDict
from torch.distributed.fsdp import FSDPModule
from transformers.utils import is_flash_attn_2_available
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_name

from trm_agent.runs.attention import CAP, TORCHS, check_scores
from trm_agent.runs.attention import FIELD as ATTENTION
from trm_agent.runs.ulysses import ACTOR_SIZE, check_shared_heads
from trm_agent.verl_plugin.actor.divergences import predicting_rows
from trm_agent.verl_plugin.actor.packed import Packing, attention_of, pack
from trm_agent.verl_plugin.actor.packed_attention import PackedRow
from trm_agent.verl_plugin.actor.shard import Shard
from trm_fields import refuse

# what asks for the logits of every token, or for verl's own path
_WHOLE = ("use_fused_kernels", "distillation_use_topk", "distillation_only")


class PackedMixin:
    """A mixin for verl's FSDP engine of language models; a model with flash-attn takes verl's own path."""

    module: Any
    model_config: Any
    use_remove_padding: bool
    use_ulysses_sp: bool
    ulysses_sequence_parallel_size: int
    ulysses_parallel_group: Any = None
    # the dtype that layers compute in, which verl also runs them in an autocast of
    _autocast_dtype: torch.dtype
    packing: Packing | None = None
    shard: Shard | None = None

    def _build_module(self) -> Any:
        is_chosen = choose_attention(self.model_config)
        if self.use_ulysses_sp:
            check_shared_heads(vars(self.model_config.hf_config.get_text_config()), self.ulysses_sequence_parallel_size)
        module = super()._build_module()  # type: ignore[misc]
        if is_chosen:
            print(f"engine: flash-attn 2 is not installed; attention is {_told(attention_of(module))}", flush=True)
        return module

    def _build_model_optimizer(self) -> None:
        super()._build_model_optimizer()  # type: ignore[misc]
        # here, since verl moves the parameters of a model that it offloads next
        self.packing = None
        if self.use_remove_padding and not self._is_verls:
            self._pack()

    @property
    def _is_verls(self) -> bool:
        """Whether verl packs the micro-batches of this model, with flash-attn."""
        return "flash" in attention_of(self.module)

    def _pack(self) -> None:
        """Pack if the model can."""
        device, group = get_device_name(), self.ulysses_parallel_group
        self.packing = pack(self.module, dtype=self._autocast_dtype, device=device, group=group)
        if isinstance(self.module, FSDPModule):
            self.module.reshard()
        if self.packing is not None:
            return
        name = f"{type(self.module).__name__} cannot be packed"
        if self.use_ulysses_sp:
            because = f"but {name} with {attention_of(self.module)} attention"
            remedy = f"leave it out, or install flash-attn and set {ATTENTION}"
            refuse(ACTOR_SIZE, self.ulysses_sequence_parallel_size, "1", remedy, because=because)
        print(f"engine: {name}; micro-batches are padded", flush=True)

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict, dict]:
        if self.packing is None and not self._is_verls:
            tu.assign_non_tensor(micro_batch, use_remove_padding=False)
        inputs, output_args = super().prepare_model_inputs(micro_batch)  # type: ignore[misc]
        lengths = micro_batch["input_ids"].offsets().diff().tolist()
        # what fills the row up stands behind the last sequence, as one of its own
        tail, group = output_args.get("pad_size", 0), self.ulysses_parallel_group
        self.shard = Shard.of(sum(lengths) + tail, group)
        if self.packing is not None:
            row = PackedRow.of([*lengths, tail] if tail else lengths, micro_batch["input_ids"].device, group)
            inputs |= self.packing.arguments(row, self.shard, _rows(micro_batch))
        return inputs, output_args

    @property
    def only_sampled(self) -> bool:
        """Whether the forward pass at hand has logits of the sampled tokens alone."""
        return self.packing is not None and self.packing.rows is not None

    def prepare_model_outputs(
        self, output: Any, output_args: dict, micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict:
        rows, local = (None, None) if self.packing is None else (self.packing.rows, self.packing.local_rows)
        if rows is None:
            return super().prepare_model_outputs(  # type: ignore[misc]
                output, output_args, micro_batch, logits_processor_func
            )
        sampled = _sampled_alone(micro_batch, rows)
        of_rows = {name: output_args[name][local] for name in ("input_ids_rmpad_rolled", "temperature_rmpad")}
        outputs = super().prepare_model_outputs(  # type: ignore[misc]
            output, output_args | of_rows, sampled, logits_processor_func
        )
        return {name: _spread(values, rows, micro_batch["input_ids"]) for name, values in outputs.items()}

    def _gather_and_unpad_packed(self, tensor: torch.Tensor, pad_size: int) -> torch.Tensor:
        """Return what verl does, the row's values on every rank; of sampled tokens where a pass has no others."""
        if not self.only_sampled:
            return super()._gather_and_unpad_packed(tensor, pad_size)  # type: ignore[misc]
        assert self.packing is not None
        assert self.packing.local_rows is not None
        assert self.shard is not None
        part = tensor.new_zeros(self.shard.size).index_copy(0, self.packing.local_rows, tensor)
        return super()._gather_and_unpad_packed(part, pad_size)[self.packing.rows]  # type: ignore[misc]


def choose_attention(model_config: Any) -> bool:
    """Choose where verl's default, flash-attn 2, is not installed and no other attention was asked for.

    A model that caps the scores of its attention takes transformers' `eager`: `sdpa` would leave the cap out. For any
    other model the choice is left to transformers: `sdpa` where the model has it, else `eager`.

    Args:
        model_config: verl's `HFModelConfig`; its `hf_config` is changed.

    Returns:
        Whether there was something to choose.

    Raises:
        ValueError: `sdpa` was asked for, and the model caps its scores.
    """
    asked, shape = model_config.override_config.get("attn_implementation"), model_config.hf_config.get_text_config()
    check_scores(vars(shape), asked)
    if asked is not None or is_flash_attn_2_available():
        return False
    model_config.hf_config._attn_implementation = "eager" if getattr(shape, CAP, None) else None
    return True


def _told(name: str) -> str:
    """Return the name of an attention with what it is."""
    return f"torch's own ({name})" if name == TORCHS else f"that of transformers ({name})"


def _rows(micro_batch: TensorDict) -> torch.Tensor | None:
    """Return the packed positions whose logits are needed; None for all."""
    if "response_mask" not in micro_batch or not micro_batch["response_mask"].is_nested:
        return None
    if any(tu.get_non_tensor_data(data=micro_batch, key=key, default=False) for key in _WHOLE):
        return None
    rows, _ = predicting_rows(micro_batch)
    return rows if len(rows) else None


def _sampled_alone(micro_batch: TensorDict, rows: torch.Tensor) -> TensorDict:
    """Return the micro-batch with the sampled tokens alone as sequences: verl takes its outputs' lengths from them."""
    borders = torch.searchsorted(rows, micro_batch["input_ids"].offsets())
    ids = micro_batch["input_ids"].values()[rows]
    sampled = micro_batch.copy()
    sampled["input_ids"] = torch.nested.nested_tensor_from_jagged(ids, borders)
    return sampled


def _spread(values: Any, rows: torch.Tensor, input_ids: Any) -> torch.Tensor:
    """Return values of sampled tokens in the layout of whole sequences, 0 elsewhere."""
    whole = values.values().new_zeros(len(input_ids.values()))
    return torch.nested.nested_tensor_from_jagged(whole.index_copy(0, rows, values.values()), input_ids.offsets())
