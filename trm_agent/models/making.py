"""Folders of models that are made once: complete or not at all, by one process, in the cache or elsewhere."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE_VARIABLE = "TRM_AGENT_CACHE"


def cache_root() -> Path:
    """Return the folder of all caches: $TRM_AGENT_CACHE or ~/.cache/trm-agent."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "trm-agent")


def models_root(cache_dir: str | Path | None = None) -> Path:
    """Return the folder of models: the given one, else `models/` in the cache."""
    return Path(cache_dir) if cache_dir is not None else cache_root() / "models"


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock beside a folder, so that two runs that start together make one model."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def check_empty(folder: Path) -> None:
    """Refuse a folder that holds anything.

    Raises:
        FileExistsError: with what to do.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not empty; choose another folder or remove it")


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Hand out a folder to fill, which takes the place of `folder` at the end, and is removed after an error.

    Raises:
        FileExistsError: if `folder` is not empty.
    """
    check_empty(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        unfinished.chmod(0o755)
        yield unfinished
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
