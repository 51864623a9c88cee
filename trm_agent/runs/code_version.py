"""The version of the code that runs."""

import importlib.metadata
import subprocess
from pathlib import Path
from typing import Any


def git_state() -> dict[str, Any]:
    """Return commit and cleanliness of the code's working tree, and the installed version; null for unknown ones."""
    where = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(where), *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = git("status", "--porcelain")
    try:
        version = importlib.metadata.version("trm-agent")
    except importlib.metadata.PackageNotFoundError:
        version = None
    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "version": version,
    }
