"""Put FSDP shards together and write them as a Hugging Face folder, one file of weights after another.

verl's own merger rounds every weight to bfloat16. Here weights keep their precision, or get the one that is asked for.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trm_agent.evaluate.checkpoints.model_files import INDEXED, shard_files

OF_CONFIG = "config"
WEIGHTS = (".safetensors", ".bin")
# bytes written so far, bytes in all
Report = Callable[[int, int], Any]


@dataclass(frozen=True)
class Weights:
    """The weights of an FSDP checkpoint, mapped, not copied."""

    actor: Path
    """verl's `actor` folder."""
    parts: Mapping[str, list[Any]]
    """Name -> the parts of the ranks."""
    dtypes: Mapping[str, Any]
    """Name -> `torch.dtype` in which it is written."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all weights as they are written."""
        return sum(parts[0].numel() * self.dtypes[name].itemsize for name, parts in self.parts.items())

    @property
    def main_dtype(self) -> str:
        """Name of the dtype of most parameters, such as `float32`."""
        sizes: dict[str, int] = {}
        for name, parts in self.parts.items():
            dtype = str(self.dtypes[name]).removeprefix("torch.")
            sizes[dtype] = sizes.get(dtype, 0) + parts[0].numel()
        return max(sizes, key=sizes.__getitem__)

    def whole(self, name: str) -> Any:
        """Return one weight, copied out of the shards."""
        return _whole(name, self.parts[name]).to(self.dtypes[name], copy=True).contiguous()


def read_weights(actor: Path, dtype: str | None = None) -> Weights:
    """Map the shards of a checkpoint and refuse those that cannot be put together.

    Args:
        actor: verl's `actor` folder: shards and `huggingface/`.
        dtype: `float32`, `bfloat16` or `float16`; `config` for that of config.json; None for that of the shards.

    Raises:
        ValueError: the weights are adapters, or a shard holds something else than weights.
    """
    import torch
    from transformers import AutoConfig

    from trm_agent.runs.checkpoint_pickles import load_pickle

    # which warns of meshes that were made in another process
    logging.getLogger("torch.distributed.device_mesh").setLevel(logging.ERROR)
    config = AutoConfig.from_pretrained(actor / "huggingface", trust_remote_code=False)
    shards = [load_pickle(file) for file in shard_files(actor)]
    adapters = [name for name in shards[0] if "lora_" in name]
    if adapters:
        raise ValueError(
            f"{actor}: a LoRA checkpoint ({adapters[0]}); add the adapter to its base model and take that folder"
        )
    parts = {name: [_held(name, shard.get(name)) for shard in shards] for name in shards[0]}
    if getattr(config, "tie_word_embeddings", False):
        parts.pop("lm_head.weight", None)
    asked = (config.dtype or torch.float32) if dtype == OF_CONFIG else getattr(torch, dtype) if dtype else None
    dtypes = {name: asked if asked and each[0].is_floating_point() else each[0].dtype for name, each in parts.items()}
    return Weights(actor, parts, dtypes)


def write_folder(weights: Weights, target: Path, report: Report = lambda done, total: None) -> None:
    """Write weights, configuration, tokenizer and templates into an existing folder.

    Args:
        report: called after each weight.

    Raises:
        ValueError: the disk is too small, or the parts of a weight do not fit together.
    """
    total, free = weights.num_bytes, shutil.disk_usage(target).free
    if total > free:
        raise ValueError(f"{target.parent}: {_size(total)} needed, {_size(free)} free; make room, or give another disk")
    _write_weights(weights, target, lambda done: report(done, total))
    for file in sorted((weights.actor / "huggingface").iterdir()):
        if file.is_file() and file.suffix not in WEIGHTS:
            shutil.copyfile(file, target / file.name)


def _write_weights(weights: Weights, target: Path, report: Callable[[int], Any]) -> None:
    import torch
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    shapes = {
        name: torch.empty(parts[0].shape, dtype=weights.dtypes[name], device="meta")
        for name, parts in weights.parts.items()
    }
    plan = split_torch_state_dict_into_shards(shapes)
    done = 0
    for file, names in plan.filename_to_tensors.items():
        # no more than one file is in memory
        held = {}
        for name in names:
            held[name] = weights.whole(name)
            done += held[name].numel() * held[name].element_size()
            report(done)
        try:
            save_file(held, target / file, metadata={"format": "pt"})
        except SafetensorError as error:
            raise ValueError(f"{target / file} cannot be written ({error}); is the disk full?") from error
        (target / file).chmod(0o644)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (target / f"{INDEXED[0]}.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _whole(name: str, parts: list[Any]) -> Any:
    """Put the ranks' parts of a weight together.

    Each rank holds its part, cut along the dimension of the DTensor's placement, or the whole of it.
    """
    import torch
    from torch.distributed.tensor import DTensor

    if not isinstance(parts[0], DTensor):
        return parts[0]
    # the last dimension of the mesh is FSDP's; the one before it, if any, repeats the model
    mesh = parts[0].device_mesh.mesh
    placement: Any = parts[0].placements[-1]
    copies = [part.to_local() for part in parts[: mesh.shape[-1]]]
    if placement.is_replicate():
        return copies[0]
    if not placement.is_shard() or any(not other.is_replicate() for other in parts[0].placements[:-1]):
        raise ValueError(f"{name}: placed as {parts[0].placements}; FSDP with or without replicas can be merged")
    whole = torch.cat(copies, dim=placement.dim)
    if whole.shape != parts[0].shape:
        raise ValueError(f"{name}: {len(copies)} shards make {tuple(whole.shape)}, expected {tuple(parts[0].shape)}")
    return whole


def _held(name: str, weight: Any) -> Any:
    """Refuse a weight whose numbers are not all in the file: a few bytes, repeated, could stand for terabytes."""
    import torch
    from torch.distributed.tensor import DTensor

    if not isinstance(weight, torch.Tensor):
        raise ValueError(f"{name}: a {type(weight).__name__} in one of the shards, expected a tensor; not a checkpoint")
    part = weight.to_local() if isinstance(weight, DTensor) else weight
    held = part.untyped_storage().nbytes()
    if part.numel() * part.element_size() > held:
        raise ValueError(f"{name}: shape {tuple(part.shape)}, of which the file holds {held} bytes; not a checkpoint")
    return weight


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"
