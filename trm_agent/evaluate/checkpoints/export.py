"""Export a checkpoint of a run as a Hugging Face folder, complete or not at all."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from trm_agent.evaluate.checkpoints.appearing import appearing
from trm_agent.evaluate.checkpoints.model_files import check_hugging_face
from trm_agent.evaluate.checkpoints.shards import Report, Weights, read_weights, write_folder
from trm_agent.evaluate.checkpoints.source import Checkpoint
from trm_fields import refuse

_KINDS = {
    "huggingface": "which is a Hugging Face folder already",
    "nano": "which is no run but a model that is made",
    "smollm2": "which is no run but a model that is fetched",
    "endpoint": "whose weights lie on a server",
}


@dataclass(frozen=True)
class Exported:
    """A finished export."""

    num_parameters: int
    """Number of parameters; a tied head counts once."""
    num_bytes: int
    """Bytes of the weights."""
    dtype: str
    """Dtype of most weights."""
    files: tuple[str, ...]
    """Names of the folder's files."""


def check_source(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that is not one of a training.

    Raises:
        ValueError: with the reason.
    """
    if because := _KINDS.get(checkpoint.kind):
        refuse("RUN@STEP", checkpoint.source, "a checkpoint of a training", "name its run and step", because=because)


def check_target(folder: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        ValueError: with the remedy.
    """
    if folder.is_dir() and any(folder.iterdir()):
        refuse("FOLDER", str(folder), "a new or an empty folder", "give another", because="which holds files")
    if folder.exists() and not folder.is_dir():
        refuse("FOLDER", str(folder), "a new or an empty folder", "give another", because="which is a file")


def export(
    checkpoint: Checkpoint, folder: Path, dtype: str | None = None, report: Report = lambda done, total: None
) -> Exported:
    """Write the weights, configuration, tokenizer, chat template and generation configuration of a checkpoint.

    Args:
        checkpoint: one whose kind is `fsdp`.
        folder: a new or an empty folder.
        dtype: `float32`, `bfloat16` or `float16`; None for that of the shards.
        report: takes the bytes of weights so far, and in all.

    Raises:
        ValueError: another kind of checkpoint, a folder that holds files, a disk that is too small, or shards that
            cannot be put together; nothing is left in `folder`.
    """
    check_source(checkpoint)
    check_target(folder)
    assert checkpoint.path is not None, "a checkpoint without a folder"
    weights = read_weights(checkpoint.path, dtype)
    _make_parent(folder)
    with appearing(folder.absolute()) as unfinished:
        write_folder(weights, unfinished, report)
        _name_dtype(unfinished / "config.json", weights)
        _describe_generation(unfinished)
        check_hugging_face(unfinished)
    files = tuple(sorted(file.name for file in folder.iterdir()))
    parameters = sum(parts[0].numel() for parts in weights.parts.values())
    return Exported(parameters, weights.num_bytes, weights.main_dtype, files)


def _make_parent(folder: Path) -> None:
    parent = folder.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=parent).close()
    except OSError as error:
        why = f"where nothing can be written ({error.strerror})"
        refuse("FOLDER", str(folder), "a place that can be written", "give another", because=why)


def _name_dtype(file: Path, weights: Weights) -> None:
    """Write the dtype of the weights into config.json, where loaders look for it."""
    config = json.loads(file.read_text(encoding="utf-8"))
    # until version 5 of transformers the field had another name
    names = [name for name in ("dtype", "torch_dtype") if name in config] or ["dtype"]
    config.update(dict.fromkeys(names, weights.main_dtype))
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _describe_generation(folder: Path) -> None:
    """Write generation_config.json where the checkpoint has none, so that generation ends at the model's own token."""
    if not (folder / "generation_config.json").exists():
        from transformers import AutoConfig, GenerationConfig

        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        GenerationConfig.from_model_config(config).save_pretrained(folder)
