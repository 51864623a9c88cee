"""Models that the hub has given this machine already, and whether it can give another one; without its package."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlparse

HUB = "https://huggingface.co"
CONNECT_S = 3.0
# what transformers looks for, with an index where there are several files
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_YES = ("1", "true", "yes", "on")


def cached_folder(model: str, env: Mapping[str, str] | None = None, weights: bool = True) -> Path | None:
    """Return the newest folder of a hub id that has been downloaded; None without one.

    Args:
        model: `organisation/name`.
        weights: whether it has to hold weights beside the config.json.
        env: the environment, whose `HF_HUB_CACHE` and `HF_HOME` place the cache; None takes that of the process.
    """
    if model.count("/") != 1:
        return None
    snapshots = cache_folder(env) / f"models--{model.replace('/', '--')}" / "snapshots"
    found = [folder for folder in snapshots.glob("*") if (folder / "config.json").exists()]
    found = [folder for folder in found if not weights or has_weights(folder)]
    return max(found, key=lambda folder: folder.stat().st_mtime, default=None)


def has_weights(folder: Path) -> bool:
    """Return True if a folder holds weights whole: in one file, or every file that an index of them names."""
    return any((folder / name).exists() or _is_whole(folder / f"{name}.index.json") for name in _WEIGHTS)


def _is_whole(index: Path) -> bool:
    """Return True if all files of an index are there; a link counts as what it leads to."""
    try:
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return bool(files) and all((index.parent / file).exists() for file in files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def cache_folder(env: Mapping[str, str] | None = None) -> Path:
    """Return where the hub's package keeps what it has downloaded."""
    env = os.environ if env is None else env
    if place := env.get("HF_HUB_CACHE"):
        return Path(place).expanduser()
    home = env.get("HF_HOME") or str(Path(env.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface")
    return Path(home).expanduser() / "hub"


def unreachable(env: Mapping[str, str] | None = None) -> str:
    """Return why the hub cannot be asked; "" where it answers."""
    env = os.environ if env is None else env
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if env.get(name, "").lower() in _YES:
            return f"{name}={env[name]}"
    address = urlparse(env.get("HF_ENDPOINT") or HUB)
    proxy = env.get("https_proxy") or env.get("HTTPS_PROXY")
    if proxy:
        address = urlparse(proxy if "//" in proxy else f"//{proxy}")
    try:
        with socket.create_connection((address.hostname or "", address.port or 443), timeout=CONNECT_S):
            return ""
    except OSError:
        return f"{address.hostname} does not answer"
