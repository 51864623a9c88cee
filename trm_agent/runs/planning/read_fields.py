"""The fields that a plan reads, checked before it computes with them: their types and ranges, references resolved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trm_agent.runs.verl_ranges import RANGES
from trm_fields import COUNT, Allowed, Flag, Number, Text, refuse

if TYPE_CHECKING:
    from omegaconf import DictConfig

_ACTOR, _MODEL, _ROLLOUT = (f"actor_rollout_ref.{name}" for name in ("actor", "model", "rollout"))
_FSDP = f"{_ACTOR}.fsdp_config"
_OPTIONAL_COUNT = Number("of 1 or more", lambda value: value >= 1, optional=True, kind=int)
READ: dict[str, Allowed] = {
    "hardware.gpu_memory_gib": _OPTIONAL_COUNT,
    f"{_ACTOR}.calculate_entropy": Flag(),
    f"{_ACTOR}.policy_loss.loss_mode": Text(),
    f"{_ACTOR}.strategy": Text(),
    f"{_ACTOR}.ulysses_sequence_parallel_size": _OPTIONAL_COUNT,
    f"{_ACTOR}.use_dynamic_bsz": Flag(),
    f"{_FSDP}.fsdp_size": Number(kind=int),
    f"{_FSDP}.model_dtype": Text(optional=True),
    f"{_FSDP}.offload_policy": Flag(),
    f"{_FSDP}.optimizer_offload": Flag(),
    f"{_FSDP}.param_offload": Flag(),
    f"{_FSDP}.ulysses_sequence_parallel_size": COUNT,
    f"{_FSDP}.use_torch_compile": Flag(),
    f"{_MODEL}.enable_gradient_checkpointing": Flag(),
    f"{_MODEL}.path": Text(),
    f"{_MODEL}.use_fused_kernels": Flag(),
    f"{_ROLLOUT}.checkpoint_engine.update_weights_bucket_megabytes": COUNT,
    f"{_ROLLOUT}.dtype": Text(),
    f"{_ROLLOUT}.name": Text(),
    **{
        path: RANGES[path]
        for path in (
            "data.max_prompt_length",
            "data.max_response_length",
            "data.train_batch_size",
            "trainer.n_gpus_per_node",
            "trainer.nnodes",
            f"{_ACTOR}.entropy_coeff",
            f"{_ACTOR}.ppo_max_token_len_per_gpu",
            f"{_ACTOR}.ppo_micro_batch_size_per_gpu",
            f"{_MODEL}.lora_rank",
            f"{_ROLLOUT}.gpu_memory_utilization",
            f"{_ROLLOUT}.max_model_len",
            f"{_ROLLOUT}.max_num_batched_tokens",
            f"{_ROLLOUT}.max_num_seqs",
            f"{_ROLLOUT}.n",
            f"{_ROLLOUT}.tensor_model_parallel_size",
        )
    },
}


def check_read(config: DictConfig) -> None:
    """Refuse values that no plan can be made with.

    Raises:
        ValueError: a field's type or range, or a section that is none.
    """
    for path, allowed in READ.items():
        value = _value(config, path)
        if value == "???":
            refuse(path, value, allowed.words, "give one")
        allowed.check(path, value)


def _value(config: DictConfig, path: str) -> Any:
    """Return a field's value, what it refers to for a reference."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    *sections, name = path.split(".")
    node: Any = config
    try:
        for depth, section in enumerate(sections, 1):
            node = node.get(section)
            if not OmegaConf.is_dict(node):
                refuse(".".join(sections[:depth]), node, "a section", "leave it as it is, and set its fields")
        return "???" if OmegaConf.is_missing(node, name) else node.get(name)
    except OmegaConfBaseException as error:
        refuse(path, "${...}", "a value, or a reference to one", "write a value", because=f"but {error}")
