"""Whether a run samples the same tokens again with the same seed, and the reasons why it cannot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trm_agent.runs.fit_cpu_engine import threads_of
from trm_agent.runs.preflight_async import SYNC, is_asynchronous
from trm_agent.runs.rollout_pool import MODE
from trm_agent.trust_region.engine_option import KWARGS, effective_option
from trm_fields import refuse

FIELD = "run.deterministic"
_ROLLOUT = "actor_rollout_ref.rollout"
_MTP = "actor_rollout_ref.model.mtp"
# vLLM reads both as 32 bits
FLOAT32 = ("float32", "float")
# options of vLLM's with which a small model guesses tokens ahead
_SPECULATIVE = ("speculative_config", "spec_method", "spec_model")


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


def repetition(config: DictConfig) -> str:
    """Say whether the same seed repeats a run, and why not."""
    if repeats(config):
        return "the same seed repeats this run, token by token"
    found = obstacle(config) if config.run.deterministic is None else None
    why = f"with {found.setting} {found.because}" if found else f"{FIELD}=false"
    return f"the same seed does not repeat this run: {why}"


def obstacle(config: DictConfig) -> Obstacle | None:
    """Return the first setting under which a run does not repeat; None if it does."""
    return _mode(config) or _machine(config) or _engine(config) or _pieces(config)


def _mode(config: DictConfig) -> Obstacle | None:
    if not is_asynchronous(config):
        return None
    because = "the clock decides which policy samples a token"
    return _under(MODE, OmegaConf.select(config, MODE), because, f"set {MODE}={SYNC}")


def _machine(config: DictConfig) -> Obstacle | None:
    if config.hardware.kind != "cpu":
        because = "kernels round by the sequences that share a batch"
        return _under("hardware.kind", config.hardware.kind, because, "choose hardware=cpu")
    for field in ("nnodes", "n_gpus_per_node"):
        if int(config.trainer[field]) != 1:
            because = "gradients are summed between processes, whose order nobody has examined"
            return _under(f"trainer.{field}", config.trainer[field], because, "set it to 1")
    threads = threads_of(config)
    if threads != 1:
        because = "the engine's attention sums over threads by the sequences that share a batch"
        return _under("hardware.engine_threads", threads, because, "set it to 1")
    return None


def _engine(config: DictConfig) -> Obstacle | None:
    name = config.actor_rollout_ref.rollout.name
    if name != "vllm":
        return _under(f"{_ROLLOUT}.name", name, "the engine takes no seed of a turn", "set it to vllm")
    field, dtype = effective_option(config, "dtype")
    if str(dtype) not in FLOAT32:
        because = "the engine's sums depend on how many sequences share a batch"
        return _under(field, dtype, because, "set it to float32")
    field, mode = effective_option(config, "logprobs_mode")
    if mode == "processed_logits":
        because = "the engine draws by its own sampler, which forgets seeds beside a greedy turn"
        return _under(field, mode, because, "set it to processed_logprobs")
    guessed = "tokens are guessed ahead and drawn by another sampler"
    for option in _SPECULATIVE:
        field, value = effective_option(config, option)
        if value is not None:
            return _under(field, value, guessed, "leave that out")
    mtp = config.actor_rollout_ref.model.get("mtp") or {}
    if mtp.get("enable") and mtp.get("enable_rollout"):
        return _under(f"{_MTP}.enable_rollout", True, guessed, "set it to false")
    return None


def _pieces(config: DictConfig) -> Obstacle | None:
    """Return the setting under which the engine reads a prompt in pieces, or would not start if it may not."""
    rollout = config.actor_rollout_ref.rollout
    field, chunked = effective_option(config, "enable_chunked_prefill")
    if chunked and field.startswith(KWARGS):
        because = "prompts are read in pieces, after which a turn's random numbers are lost"
        return _under(field, chunked, because, "leave that out")
    length_field, length = effective_option(config, "max_model_len")
    field, at_once = effective_option(config, "max_num_batched_tokens")
    if length is None and field.startswith(KWARGS):
        because = (
            f"the engine's longest prompt, which no {_ROLLOUT}.max_model_len limits, may have to be read in pieces"
        )
        return _under(field, at_once, because, "leave that out")
    longest = length or rollout.prompt_length + rollout.response_length
    for each, value in ((length_field, longest), (field, at_once)):
        if not str(value).isdecimal():
            return _under(each, value, "the number of tokens is not known before the engine starts", "give a number")
    if int(longest) > int(at_once):
        because = f"a prompt of up to {longest} tokens is read in pieces, after which a turn's random numbers are lost"
        return _under(field, at_once, because, f"set it to {longest}")
    return None


def _under(field: str, value: Any, because: str, remedy: str) -> Obstacle:
    return Obstacle(f"{field}={value}", because, remedy)
