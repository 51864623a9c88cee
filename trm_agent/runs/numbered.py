"""Numbered folders, and the lock of a folder."""

import fcntl
import re
from pathlib import Path
from typing import IO

LOCK_FILE = ".lock"


def numbered(root: Path, name: str) -> list[Path]:
    """Return the folders `name`-NNN under `root`, in the order of their numbers."""
    pattern = re.compile(re.escape(name) + r"-(\d{3,})")
    found = [path for path in root.glob("*") if path.is_dir() and pattern.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.rsplit("-", 1)[1]))


def make_numbered(root: Path, name: str) -> Path:
    """Make the folder `name`-NNN of the next free number."""
    while True:
        taken = [int(path.name.rsplit("-", 1)[1]) for path in numbered(root, name)]
        path = root / f"{name}-{max(taken, default=0) + 1:03d}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:  # another process has just taken the number
            continue
        return path


def try_lock(path: Path) -> IO[str] | None:
    """Lock a folder for this process; None if another holds it."""
    lock = (path / LOCK_FILE).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock
