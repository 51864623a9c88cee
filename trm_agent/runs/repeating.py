"""Whether a run samples the same tokens again with the same seed, and the reasons why it cannot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trm_agent.runs.engine_options import KWARGS
from trm_fields import refuse

FIELD = "run.deterministic"
_ROLLOUT = "actor_rollout_ref.rollout"
# vLLM reads both as 32 bits
FLOAT32 = ("float32", "float")


@dataclass(frozen=True)
class Obstacle:
    """A setting under which a run does not repeat."""

    setting: str
    """The field and its value."""
    because: str
    """The reason, after "but with FIELD=VALUE"."""
    remedy: str
    """The values that would do."""


def repeats(config: DictConfig) -> bool:
    """Return True if turns get seeds of their own: demanded, or left open where it can be had."""
    asked = config.run.deterministic
    return asked is True or (asked is None and obstacle(config) is None)


def deterministic(config: DictConfig) -> None:
    """Refuse a run that must repeat and cannot.

    Raises:
        ValueError: `run.deterministic=true` with a setting that forbids it.
    """
    found = obstacle(config) if config.run.deterministic is True else None
    if found is not None:
        because = f"but with {found.setting} {found.because}"
        refuse(FIELD, True, "null or false", f"leave it out, or {found.remedy}", because=because)


def obstacle(config: DictConfig) -> Obstacle | None:
    """Return the first setting under which a run does not repeat; None if it does."""
    rollout, trainer = config.actor_rollout_ref.rollout, config.trainer
    if config.hardware.kind != "cpu":
        because = "kernels round by the sequences that share a batch"
        return _under("hardware.kind", config.hardware.kind, because, "choose hardware=cpu")
    for field in ("nnodes", "n_gpus_per_node"):
        if int(trainer[field]) != 1:
            because = "gradients are summed between processes, whose order nobody has examined"
            return _under(f"trainer.{field}", trainer[field], because, "set it to 1")
    if rollout.name != "vllm":
        return _under(f"{_ROLLOUT}.name", rollout.name, "the engine takes no seed of a turn", "set it to vllm")
    if str(rollout.dtype) not in FLOAT32:
        because = "the engine's sums depend on how many sequences share a batch"
        return _under(f"{_ROLLOUT}.dtype", rollout.dtype, because, "set it to float32")
    longest = int(rollout.max_model_len or rollout.prompt_length + rollout.response_length)
    at_once = int(rollout.max_num_batched_tokens)
    if longest > at_once:
        because = f"a prompt of up to {longest} tokens is read in pieces, after which a turn's random numbers are lost"
        return _under(f"{_ROLLOUT}.max_num_batched_tokens", at_once, because, f"set it to {longest}")
    field = f"{KWARGS}.enable_chunked_prefill"
    if OmegaConf.select(config, field):
        because = "prompts are read in pieces, after which a turn's random numbers are lost"
        return _under(field, True, because, "leave that out")
    return None


def _under(field: str, value: Any, because: str, remedy: str) -> Obstacle:
    return Obstacle(f"{field}={value}", because, remedy)
