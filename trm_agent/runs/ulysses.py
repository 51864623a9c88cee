"""The ranks that share the tokens of a sequence, verl's Ulysses: who can, and for which models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trm_fields import refuse

if TYPE_CHECKING:
    from omegaconf import DictConfig

SIZE = "ulysses_sequence_parallel_size"
ACTOR_SIZE = f"actor_rollout_ref.actor.fsdp_config.{SIZE}"
# of the policy and its reference, in verl's old place and in its new one
_SECTIONS = tuple(f"actor_rollout_ref.{role}{place}" for role in ("actor", "ref") for place in ("", ".fsdp_config"))
_CRITIC = ("critic", "critic.fsdp")


def sizes(config: DictConfig) -> dict[str, int]:
    """Return the sizes above 1 of policy and reference, by field."""
    return _above_one(config, _SECTIONS)


def sharing_ranks(config: DictConfig) -> int:
    """Return how many ranks share a sequence in the policy's update."""
    return next(iter(_above_one(config, _SECTIONS[:2]).values()), 1)


def sequence_parallelism(config: DictConfig) -> None:
    """Refuse ranks that cannot share sequences.

    Raises:
        ValueError: with the field.
    """
    ranks = int(config.trainer.n_gpus_per_node) * int(config.trainer.nnodes)
    padding = "actor_rollout_ref.model.use_remove_padding"
    for field, size in sizes(config).items():
        if ranks % size:
            allowed = f"sizes that divide the ranks, of which there are {ranks}"
            refuse(field, size, allowed, "lower it, or raise trainer.n_gpus_per_node")
        if not config.actor_rollout_ref.model.use_remove_padding:
            refuse(
                padding, False, "true, since only packed sequences are shared", "set it", because=f"with {field}={size}"
            )
    if config.hardware.kind == "cpu":
        for field, size in _above_one(config, _CRITIC).items():
            refuse(field, size, "1", "leave it out", because="which verl's critic lacks without a GPU")


def check_shared_heads(shape: Mapping[str, Any], size: int, field: str = ACTOR_SIZE) -> None:
    """Refuse ranks that cannot share the heads of a model's attention: each takes as many, of the keys at least one.

    Args:
        shape: its config.json.
        size: ranks that share a sequence.
        field: where it is set.

    Raises:
        ValueError: with the sizes that can.
    """
    heads = shape.get("num_attention_heads")
    if not heads:
        return
    keys = shape.get("num_key_value_heads") or heads
    able = [each for each in range(1, heads + 1) if heads % each == 0 and (keys % each == 0 or each % keys == 0)]
    if size not in able:
        because = f"with a model of {heads} attention heads and {keys} key heads"
        refuse(field, size, ", ".join(map(str, able)), "choose one of them", because=because)


def _above_one(config: DictConfig, sections: tuple[str, ...]) -> dict[str, int]:
    from omegaconf import OmegaConf

    found = {f"{section}.{SIZE}": OmegaConf.select(config, f"{section}.{SIZE}") or 1 for section in sections}
    return {field: size for field, size in found.items() if size > 1}
