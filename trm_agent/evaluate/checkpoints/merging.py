"""Merge FSDP shards to a Hugging Face folder, once: the result is cached under a hash of the shards.

From the shell: `python -m trm_agent.evaluate.checkpoints.merging ACTOR TARGET`.

verl's own merger rounds every weight to bfloat16. Here the trained model itself is evaluated: weights keep the
precision that the model's `config.json` names, float32 for the nano model.
"""

import fcntl
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trm_agent.evaluate.checkpoints.model_files import check_fsdp, check_hugging_face, content_hash, shard_files
from trm_agent.models.nano import cache_root

TIMEOUT_SECONDS = 3600.0


def merged_folder(actor: Path, timeout_s: float = TIMEOUT_SECONDS) -> Path:
    """Return the Hugging Face folder of an FSDP checkpoint, merging it if the cache does not hold it.

    The cache is `merged/` in $TRM_AGENT_CACHE or in ~/.cache/trm-agent. Processes that ask at once merge once.

    Args:
        actor: verl's `actor` folder: shards and `huggingface/`.
        timeout_s: seconds that the merge may take.

    Raises:
        ValueError: the checkpoint is half-written or cannot be merged; the end of the merger's output is shown.
    """
    check_fsdp(actor)
    folder = merge_target(actor)
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.with_suffix(".lock")):
        if not folder.exists():
            _merge_atomically(actor, folder, timeout_s)
    return folder


def merge_target(actor: Path) -> Path:
    """Return the merged model's place in the cache, whether it is merged or not."""
    return cache_root() / "merged" / fsdp_hash(actor)


def fsdp_hash(actor: Path) -> str:
    """Return a short hash of everything that decides the merged model: shards, configuration and tokenizer."""
    return content_hash([*shard_files(actor), *(file for file in (actor / "huggingface").iterdir() if file.is_file())])


def merge(actor: Path, target: Path) -> None:
    """Merge the shards into `target`, in this process.

    Each rank holds its part of a weight, cut along the dimension of the DTensor's placement, or the whole of it.

    Raises:
        ValueError: the weights are adapters, or cut in a way that FSDP does not.
    """
    import torch
    from huggingface_hub import save_torch_state_dict
    from transformers import AutoConfig

    from trm_agent.runs.checkpoint_pickles import load_pickle

    config = AutoConfig.from_pretrained(actor / "huggingface", trust_remote_code=False)
    dtype = config.dtype or torch.float32
    # a shard holds tensors placed on a mesh of ranks that do not exist here
    shards = [load_pickle(file) for file in shard_files(actor)]
    adapters = [name for name in shards[0] if "lora_" in name]
    if adapters:
        raise ValueError(
            f"{actor}: a LoRA checkpoint ({adapters[0]}); add the adapter to its base model and evaluate that folder"
        )
    weights = {name: _whole(name, [_held(name, shard.get(name)) for shard in shards]).to(dtype) for name in shards[0]}
    if getattr(config, "tie_word_embeddings", False):
        weights.pop("lm_head.weight", None)
    save_torch_state_dict(weights, target, metadata={"format": "pt"})
    for file in (actor / "huggingface").iterdir():
        if file.is_file() and file.suffix not in (".safetensors", ".bin"):
            shutil.copyfile(file, target / file.name)


def _whole(name: str, parts: list[Any]) -> Any:
    """Put the ranks' parts of a weight together."""
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


def _merge_atomically(actor: Path, folder: Path, timeout_s: float) -> None:
    """Merge in a process of its own, to free the weights' memory, into a folder that appears complete or not at all."""
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    command = [sys.executable, "-m", "trm_agent.evaluate.checkpoints.merging", str(actor), str(unfinished)]
    try:
        unfinished.chmod(0o755)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise ValueError(f"{actor}: merging took longer than {timeout_s:g} s; is the disk full or slow?") from None
        if done.returncode != 0:
            raise ValueError(f"{actor}: merging failed; the end of its output:\n{(done.stdout + done.stderr)[-2000:]}")
        check_hugging_face(unfinished)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    try:
        merge(Path(sys.argv[1]), Path(sys.argv[2]))
    except ValueError as error:
        sys.exit(str(error))
