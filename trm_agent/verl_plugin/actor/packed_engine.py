"""verl's FSDP engine with packed micro-batches where there is no flash-attn, logits only where tokens were sampled."""

from typing import Any

import torch
from tensordict import TensorDict
from torch.distributed.fsdp import FSDPModule
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_name

from trm_agent.verl_plugin.actor.divergences import predicting_rows
from trm_agent.verl_plugin.actor.packed import Packing, pack

# what asks for the logits of every token, or for verl's own path
_WHOLE = ("use_fused_kernels", "distillation_use_topk", "distillation_only")


class PackedMixin:
    """A mixin for verl's FSDP engine of language models; without an effect but on a machine without an accelerator."""

    module: Any
    use_remove_padding: bool
    use_ulysses_sp: bool
    pad_to_length: bool
    packing: Packing | None = None

    def initialize(self) -> None:
        if get_device_name() == "cpu" and self.use_ulysses_sp:
            # verl's own refusal, which `use_remove_padding` passes
            raise ValueError("ulysses_sequence_parallel_size is above 1, which needs flash-attn: set it to 1 on a CPU")
        super().initialize()  # type: ignore[misc]
        if get_device_name() == "cpu" and self.use_remove_padding:
            self._pack()

    def _pack(self) -> None:
        """Pack if the model can; a tail that fills a length up belongs to no sequence."""
        self.packing = None if self.pad_to_length else pack(self.module)
        if isinstance(self.module, FSDPModule):
            self.module.reshard()
        if self.packing is None:
            name = "pad_to_length is set" if self.pad_to_length else f"{type(self.module).__name__} cannot be packed"
            print(f"engine: {name}; micro-batches are padded", flush=True)

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict, dict]:
        if get_device_name() == "cpu" and self.packing is None:
            tu.assign_non_tensor(micro_batch, use_remove_padding=False)
        inputs, output_args = super().prepare_model_inputs(micro_batch)  # type: ignore[misc]
        if self.packing is not None:
            lengths = micro_batch["input_ids"].offsets().diff().tolist()
            inputs |= self.packing.arguments(lengths, _rows(micro_batch))
        return inputs, output_args

    @property
    def only_sampled(self) -> bool:
        """Whether the forward pass at hand has logits of the sampled tokens alone."""
        return self.packing is not None and self.packing.rows is not None

    def prepare_model_outputs(
        self, output: Any, output_args: dict, micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict:
        rows = None if self.packing is None else self.packing.rows
        if rows is None:
            return super().prepare_model_outputs(  # type: ignore[misc]
                output, output_args, micro_batch, logits_processor_func
            )
        sampled = _sampled_alone(micro_batch, rows)
        of_rows = {name: output_args[name][rows] for name in ("input_ids_rmpad_rolled", "temperature_rmpad")}
        outputs = super().prepare_model_outputs(  # type: ignore[misc]
            output, output_args | of_rows, sampled, logits_processor_func
        )
        return {name: _spread(values, rows, micro_batch["input_ids"]) for name, values in outputs.items()}


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
