"""The disk that a run's checkpoints need, before the run begins."""

import json
import math
import shutil
import struct
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trm_agent.runs.critic import has_critic
from trm_agent.runs.endings.facts import gib
from trm_agent.runs.endings.keeping import Keeping, folder_bytes, most_at_once
from trm_agent.runs.folder import RunFolder
from trm_fields import refuse

_ACTOR = "actor_rollout_ref.actor"
_BYTES = {"fp32": 4, "float32": 4, "32": 4, "bf16": 2, "bfloat16": 2, "fp16": 2, "float16": 2, "16": 2}
# values of the optimizer (Adam) for each parameter
_MOMENTS = 2
_MAX_HEADER = 100 * 2**20


def keeping_of(config: DictConfig) -> Keeping:
    """Return the rule of a run's configuration."""
    return Keeping(
        config.trainer.get("max_actor_ckpt_to_keep"), config.run.get("keep_best"), config.run.get("keep_every")
    )


def check_room(config: DictConfig, folder: RunFolder, model: str) -> str:
    """Check the disk of a run's folder, and note in it what a checkpoint takes; as `check_disk` otherwise."""
    folder.checkpoint_bytes = checkpoint_bytes(config, model)
    return check_disk(config, folder.path, model, folder.step)


def check_disk(config: DictConfig, folder: Path, model: str, step: int = 0) -> str:
    """Check that the checkpoints of a run fit on its disk.

    Args:
        config: a composed and checked configuration.
        folder: the folder of the run.
        model: the folder of the model, or its hub id.
        step: the step after which the run is resumed; 0 for a new one.

    Returns:
        A line for the user; "" if the run saves nothing.

    Raises:
        ValueError: there is not enough room.
    """
    num_saves = saves_left(config, step)
    if not num_saves:
        return ""
    each = checkpoint_bytes(config, model)
    free = shutil.disk_usage(folder).free
    if each is None:
        return f"disk: {gib(free)} free for checkpoints, whose size is not known before the model is loaded"
    keeping = keeping_of(config)
    number = most_at_once(keeping, num_saves + (step > 0), config.trainer.total_training_steps)
    needed = number * each
    missing = needed - folder_bytes(folder) - free
    told = f"disk: {gib(needed)} for checkpoints ({number} at a time, {gib(each)} each), {gib(free)} free"
    if missing > 0:
        refuse(
            "trainer.max_actor_ckpt_to_keep",
            keeping.newest,
            f"what fits on the disk of {folder}: {gib(free)} are free",
            f"keep fewer, make room ({gib(missing)} are missing), or give another disk with run.root; "
            "trainer.save_freq=-1 saves nothing",
            because=f"which needs {gib(needed)} ({number} checkpoints at a time, {gib(each)} each)",
        )
    return told


def saves_left(config: DictConfig, step: int) -> int:
    """Return the number of checkpoints that a run will write after a step."""
    every, total = config.trainer.save_freq, config.trainer.total_training_steps
    if every <= 0 or step >= total:
        return 0
    return total // every - step // every + (total % every > 0)


def checkpoint_bytes(config: DictConfig, model: str) -> int | None:
    """Return the bytes of a checkpoint: parameters and the optimizer's moments; None if the model is not here yet."""
    number = parameter_count(model)
    if number is None:
        return None
    contents = set(OmegaConf.select(config, f"{_ACTOR}.checkpoint.save_contents") or ("model", "optimizer", "extra"))
    width = _BYTES.get(str(OmegaConf.select(config, f"{_ACTOR}.fsdp_config.model_dtype") or "fp32").lower(), 4)
    # of an adapter only its own parameters have moments, which is little beside the model
    moments = _MOMENTS if "optimizer" in contents and not config.actor_rollout_ref.model.get("lora_rank", 0) else 0
    total = number * width * (("model" in contents) + moments) + (number * 2 if "hf_model" in contents else 0)
    return total * (2 if has_critic(config) else 1)


def parameter_count(model: str) -> int | None:
    """Return the number of parameters of a model's safetensors, from their headers; None if there are none here."""
    folder = _folder(model)
    files = sorted(folder.glob("*.safetensors")) if folder else []
    if not files:
        return None
    try:
        return sum(_elements(file) for file in files)
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None


def _folder(model: str) -> Path | None:
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    from transformers.utils import cached_file

    try:
        found = cached_file(model, "config.json", local_files_only=True)
    except Exception:  # not downloaded, or not an id: the run will say so
        return None
    return Path(found).parent if found else None


def _elements(file: Path) -> int:
    """Return the number of values in a file of safetensors, reading its header alone."""
    with file.open("rb") as opened:
        (size,) = struct.unpack("<Q", opened.read(8))
        if size > _MAX_HEADER:
            raise ValueError(f"{file}: a header of {size} bytes")
        header: dict[str, Any] = json.loads(opened.read(size))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
