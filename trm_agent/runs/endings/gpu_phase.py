"""The phase of a run in which a GPU's memory did not do, by the functions on the stack, and the field that mends it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from trm_agent.runs.endings.told import Raised

_ACTOR, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
_FSDP = f"{_ACTOR}.fsdp_config"
_SHARE = f"{_ROLLOUT}.gpu_memory_utilization"
_PLAN = "trm doctor --plan shows the parts"


@dataclass(frozen=True)
class Phase:
    """What a run was doing."""

    words: str
    """It in words, read after "in"."""
    remedy: str
    """What makes it smaller, an imperative clause."""
    functions: tuple[str, ...]
    """Functions of verl and vLLM that do it."""


PHASES = (
    Phase(
        "loading the trainer's model",
        f"set {_FSDP}.offload_policy=true, or take more GPUs or a smaller model",
        ("_build_model_optimizer", "init_model"),
    ),
    Phase(
        "loading the engine's weights",
        f"raise {_ROLLOUT}.tensor_model_parallel_size, set {_FSDP}.param_offload=true, or take a smaller model",
        ("load_model",),
    ),
    Phase(
        "the engine's first batch, before it makes its KV cache",
        f"lower {_ROLLOUT}.max_num_batched_tokens or {_ROLLOUT}.max_num_seqs",
        ("profile_run", "determine_available_memory", "_dummy_sampler_run"),
    ),
    Phase(
        "making the engine's KV cache",
        f"lower {_SHARE}",
        ("initialize_kv_cache", "initialize_kv_cache_tensors", "initialize_from_config"),
    ),
    Phase(
        "capturing the engine's graphs",
        f"lower {_SHARE}, or set {_ROLLOUT}.enforce_eager=true",
        ("capture_model", "compile_or_warm_up_model"),
    ),
    Phase(
        "waking the engine's KV cache beside the trainer",
        f"lower {_SHARE}, or set {_FSDP}.param_offload=true and {_FSDP}.optimizer_offload=true",
        ("wake_up",),
    ),
    Phase(
        "generation",
        f"lower {_SHARE}, or {_ROLLOUT}.max_num_seqs",
        ("execute_model", "sample_tokens"),
    ),
    Phase(
        "handing weights to the engine",
        f"lower {_ROLLOUT}.checkpoint_engine.update_weights_bucket_megabytes, or set {_FSDP}.optimizer_offload=true",
        ("update_weights", "update_weights_from_ipc"),
    ),
    Phase(
        "the trainer's log-probs",
        f"lower {_ROLLOUT}.log_prob_max_token_len_per_gpu (or log_prob_micro_batch_size_per_gpu)",
        ("compute_log_prob", "compute_ref_log_prob", "infer_batch"),
    ),
    Phase(
        "the optimizer's step",
        f"set {_FSDP}.offload_policy=true, or take more GPUs",
        ("optimizer_step",),
    ),
    Phase(
        "the update",
        f"lower {_ACTOR}.ppo_max_token_len_per_gpu (or ppo_micro_batch_size_per_gpu), or set "
        f"actor_rollout_ref.model.enable_gradient_checkpointing=true or {_FSDP}.ulysses_sequence_parallel_size",
        ("update_actor", "train_mini_batch", "train_batch"),
    ),
)
_OF_FUNCTION = {name: phase for phase in PHASES for name in phase.functions}
_GPU = "memory: GPU"
E = TypeVar("E")


def phase_of(raised: Sequence[Raised]) -> Phase | None:
    """Return the phase of the first exception about a GPU's memory whose stack tells it; None without one."""
    for each in raised:
        if "out of memory" not in each.message and "OutOfMemoryError" not in each.type:
            continue
        for name in reversed(each.functions):
            if name in _OF_FUNCTION:
                return _OF_FUNCTION[name]
    return None


def with_phase(ending: E, raised: Sequence[Raised]) -> E:
    """Return an ending by a GPU's memory with its phase and its field; any other as it is.

    Args:
        ending: an `Ending` of `explain`.
        raised: the exceptions that the session's texts tell.
    """
    phase = phase_of(raised) if str(vars(ending)["name"]).startswith(_GPU) else None
    if phase is None:
        return ending
    cause = str(vars(ending)["cause"])
    words = cause.replace("out of GPU memory", f"out of GPU memory in {phase.words}", 1)
    return replace(ending, cause=words, remedy=f"{phase.remedy}; {_PLAN}")  # type: ignore[type-var]
