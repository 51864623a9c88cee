"""Rules of `trm_agent.runs.preflight` on verl's own fields: types, ranges, loggers, devices, and what a run refuses."""

from __future__ import annotations

import functools
import importlib.util
import netrc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trm_agent.extras import is_installed
from trm_agent.runs.attention import attention
from trm_agent.runs.elsewhere import is_elsewhere
from trm_agent.runs.engine_options import engine_options, executor
from trm_agent.runs.forked_workers import fork_server
from trm_agent.runs.hidden_gpus import VARIABLE, has_device, hides_all
from trm_agent.runs.planning.machine import read_gpus
from trm_agent.runs.preflight_gpu import check_gpus
from trm_agent.runs.rollout_pool import devices_here, engine_devices, own_devices
from trm_agent.runs.stored_config import flatten
from trm_agent.runs.ulysses import sequence_parallelism
from trm_agent.runs.verl_choices import BACKENDS
from trm_agent.runs.verl_fates import verl_fields
from trm_agent.runs.verl_ranges import LOOSE, RANGES
from trm_agent.runs.verl_refusals import refusal_of
from trm_fields import Allowed, Flag, Number, Text, nearest, refuse

_ACTOR = "actor_rollout_ref.actor"
_REF = "actor_rollout_ref.ref"
_ROLLOUT = "actor_rollout_ref.rollout"
_TYPES: dict[str, Allowed] = {"int": Number(kind=int), "float": Number(), "bool": Flag(), "str": Text()}
# backend of verl's Tracking -> the module that it imports; verl brings the others
LOGGER_MODULES = {
    "wandb": "wandb",
    "mlflow": "mlflow",
    "swanlab": "swanlab",
    "vemlp_wandb": "volcengine_ml_platform",
    "clearml": "clearml",
    "trackio": "trackio",
    "tensorboard": "tensorboard",
}


def types(config: DictConfig) -> None:
    """Refuse values of verl's fields that are of another type or out of range."""
    declared, sections = verl_fields()["fields"], _sections()
    for field, value in _written(config):
        kind, default = declared.get(field, ("dict", None) if field in sections else ("any", None))
        if field in RANGES:
            RANGES[field].check(field, value, f"give one, such as {default}" if default not in (None, "") else "")
        elif field not in LOOSE:
            _check_type(field, value, kind, default)


def refusals(config: DictConfig) -> None:
    """Refuse fields that a run cannot honour, where they differ from their default."""
    loss = OmegaConf.select(config, f"{_ACTOR}.policy_loss.loss_mode")
    declared = verl_fields()["fields"]
    for field, value in _written(config, interpolated=True):
        refusal = refusal_of(field)
        if refusal is None or (refusal.loss and refusal.loss != loss):
            continue
        allowed = refusal.allowed or (declared.get(field, ("any", None))[1],)
        if value in allowed or value == {}:
            continue
        allowed = tuple(_resolved(config, field, each) for each in allowed)
        if value not in allowed:
            words = " or ".join(dict.fromkeys("null" if each is None else str(each).lower() for each in allowed))
            refuse(field, value, words, refusal.remedy, because=refusal.reason)


def _resolved(config: DictConfig, field: str, value: Any) -> Any:
    """Return what a field that is an interpolation stands for; the interpolation itself where that is not known."""
    if not (isinstance(value, str) and value.startswith("${") and value.endswith("}")):
        return value
    tree = config.copy()
    try:
        OmegaConf.update(tree, field, value, force_add=True)
        return OmegaConf.select(tree, field, throw_on_missing=True)
    except OmegaConfBaseException:
        return value


def weight_transfer(config: DictConfig) -> None:
    """Refuse a way of handing weights to the engine that verl does not have."""
    backend = config.actor_rollout_ref.rollout.checkpoint_engine.get("backend")
    BACKENDS.check(f"{_ROLLOUT}.checkpoint_engine.backend", backend)


def loggers(config: DictConfig) -> None:
    """Refuse backends of verl's tracking that it does not have, or that cannot work here."""
    field, given = "trainer.logger", config.trainer.get("logger")
    named = [given] if isinstance(given, str) else list(given) if OmegaConf.is_list(given) else None
    known = verl_fields()["loggers"]
    if named is None or not all(isinstance(name, str) for name in named):
        refuse(field, named or given, f"a list of {', '.join(known)}", "write one as [console,tensorboard]")
    for name in named:
        if name not in known:
            refuse(field, name, ", ".join(known), nearest(name, known, "choose one of them"))
        module = LOGGER_MODULES.get(name)
        if module is not None and not is_installed(module):
            refuse(field, name, "backends that are installed", f"pip install {module}, or leave it out")
    if "wandb" in named and not _has_wandb_key(config):
        refuse(
            field,
            "wandb",
            "wandb with a key or offline",
            "run `wandb login`, or set WANDB_API_KEY, or set WANDB_MODE=offline",
            because="for which no key is found",
        )


def devices(config: DictConfig) -> None:
    """Refuse settings for a GPU where there is none, and a trainer's device of another kind than the machine's."""
    kind, device = config.hardware.kind, config.trainer.device
    if (kind == "cpu") != (device == "cpu"):
        refuse(
            "trainer.device",
            device,
            "cpu" if kind == "cpu" else "cuda or npu",
            "choose hardware=cpu or hardware=gpu, which set both",
            because=f"with hardware.kind={kind}",
        )
    if is_elsewhere(config):
        return
    if device == "cuda":
        _check_cuda(config)
    if int(config.trainer.nnodes) > 1:
        refuse(
            "trainer.nnodes",
            config.trainer.nnodes,
            "1, this machine alone",
            "start Ray on every node and set RAY_ADDRESS (docs/clusters.md), or lower it",
            because="but no Ray cluster runs here",
        )


def threads(config: DictConfig) -> None:
    """Refuse more threads of an engine without a GPU than there are cores, and any setting of them with one."""
    number, cores = config.hardware.engine_threads, len(os.sched_getaffinity(0))
    if number is None:
        return
    if config.hardware.kind != "cpu" and number != 1:
        refuse("hardware.engine_threads", number, "1", "leave it out", because="which an engine on a GPU does not read")
    if config.hardware.kind == "cpu" and number > cores:
        refuse(
            "hardware.engine_threads",
            number,
            f"at most {cores}, the cores of this machine",
            "lower it",
            because="whose threads would wait for each other",
        )


def _check_cuda(config: DictConfig) -> None:
    """Refuse CUDA devices that are not here, hidden or of no use, and a plan that they do not hold."""
    if hides_all(os.environ):
        refuse(
            "hardware.kind",
            config.hardware.kind,
            "cpu where every CUDA device is hidden",
            f"unset {VARIABLE} or list devices in it, or choose experiment=math_nano or hardware=cpu",
            because=f"but {VARIABLE}={os.environ[VARIABLE]} hides every CUDA device",
        )
    check_gpus(config)
    wanted, own, found = devices_here(config), own_devices(config), _cuda_devices()
    if not found:
        refuse(
            "hardware.kind",
            config.hardware.kind,
            "cpu on a machine without a CUDA device",
            "choose experiment=math_nano or hardware=cpu, or start it where `nvidia-smi` lists a device",
            because="but no CUDA device is found",
        )
    if wanted > found:
        refuse(
            "trainer.n_gpus_per_node",
            config.trainer.n_gpus_per_node,
            f"at most {found}{' together' if own else ''}, the CUDA devices of this machine",
            "lower it",
            because=f"with {own} more for the rollout servers" if own else "",
        )


def engines(config: DictConfig) -> None:
    """Refuse an engine that is not installed, and one larger than the devices."""
    rollout = config.actor_rollout_ref.rollout
    if not is_installed("tensorrt_llm" if rollout.name == "trtllm" else rollout.name):
        refuse(f"{_ROLLOUT}.name", rollout.name, "vllm, or an engine that is installed", "set it to vllm")
    devices = engine_devices(config)
    size = int(rollout.tensor_model_parallel_size) * int(rollout.data_parallel_size)
    if devices % size:
        refuse(
            f"{_ROLLOUT}.tensor_model_parallel_size",
            rollout.tensor_model_parallel_size,
            f"sizes of an engine that divide the {devices} devices",
            "lower it, or set trainer.n_gpus_per_node",
            because=f"with which an engine takes {size} devices",
        )


def _written(config: DictConfig, interpolated: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield verl's fields as they are written; interpolations only if they are asked for."""
    for name in config:
        node: Any = config._get_node(name)
        tree = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node._value()
        for field, value in flatten(tree, str(name)).items():
            # a missing value is refused where it is read
            is_text = isinstance(value, str) and ("${" in value or value == "???")
            if (interpolated or not is_text) and not field.endswith("._target_"):
                yield field, value


@functools.cache
def _sections() -> frozenset[str]:
    """Return the sections of verl's configuration."""
    names = (field.split(".") for field in verl_fields()["fields"])
    return frozenset(".".join(parts[:depth]) for parts in names for depth in range(1, len(parts)))


def _check_type(field: str, value: Any, kind: str, default: Any) -> None:
    if value is None and kind.endswith("?"):
        return
    allowed = _TYPES.get(kind.rstrip("?"))
    if allowed is not None:
        allowed.check(field, value, f"give one, such as {default}" if default not in (None, "") else "")
    elif kind.rstrip("?") == "list" and not isinstance(value, list):
        refuse(field, value, "a list", "write one as [A,B]")
    elif kind.rstrip("?") == "dict" and not isinstance(value, dict):
        refuse(field, value, "a section", "write a section as {name: value}")


def _has_wandb_key(config: DictConfig) -> bool:
    # that of Ray's workers, of which one logs
    theirs = OmegaConf.select(config, "ray_kwargs.ray_init.runtime_env.env_vars") or {}
    env = {**os.environ, **{name: str(value) for name, value in theirs.items()}}
    if env.get("WANDB_API_KEY") or env.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return True
    host = urlparse(env.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    files = [env["NETRC"]] if env.get("NETRC") else ["~/.netrc", "~/_netrc"]
    return any(_has_login(Path(file).expanduser(), host) for file in files)


def _has_login(file: Path, host: str) -> bool:
    try:
        return bool(netrc.netrc(file).authenticators(host))
    except (OSError, netrc.NetrcParseError):
        return False


def _cuda_devices() -> int:
    """Count the CUDA devices of this machine; where the driver's tool lists none, torch decides."""
    if gpus := read_gpus()[0]:
        return len(gpus)
    if not has_device() or importlib.util.find_spec("torch") is None:
        return 0
    import torch

    return int(torch.cuda.device_count())


# before all else; `refusals` come last, since other rules know more about some of these fields
VERL_RULES = (types, engine_options, executor, weight_transfer)
# on this machine
MACHINE_RULES = (types, devices, fork_server, sequence_parallelism, attention, threads, loggers, engines)
