"""Merge FSDP shards to a Hugging Face folder, once: the result is cached under a hash of the shards.

From the shell: `python -m trm_agent.evaluate.checkpoints.merging ACTOR TARGET`.

Here the trained model itself is evaluated: weights keep the precision that the model's `config.json` names, float32 for
the nano model.
"""

import fcntl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trm_agent.evaluate.checkpoints.appearing import appearing
from trm_agent.evaluate.checkpoints.model_files import check_fsdp, check_hugging_face, content_hash, shard_files
from trm_agent.evaluate.checkpoints.shards import OF_CONFIG, read_weights, write_folder
from trm_agent.models.making import cache_root

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
    """Merge the shards into the folder `target`, in this process.

    Raises:
        ValueError: the weights are adapters, or cut in a way that FSDP does not.
    """
    write_folder(read_weights(actor, OF_CONFIG), target)


def _merge_atomically(actor: Path, folder: Path, timeout_s: float) -> None:
    """Merge in a process of its own, to free the weights' memory."""
    with appearing(folder) as unfinished:
        command = [sys.executable, "-m", "trm_agent.evaluate.checkpoints.merging", str(actor), str(unfinished)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise ValueError(f"{actor}: merging took longer than {timeout_s:g} s; is the disk full or slow?") from None
        if done.returncode != 0:
            raise ValueError(f"{actor}: merging failed; the end of its output:\n{(done.stdout + done.stderr)[-2000:]}")
        check_hugging_face(unfinished)


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
