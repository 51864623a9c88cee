"""The devices of a run's rollout servers: the trainer's, or a pool of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

MODE, SEPARATE = "trainer.v1.trainer_mode", "separate_async"
POOL_NODES, POOL_DEVICES = "actor_rollout_ref.rollout.nnodes", "actor_rollout_ref.rollout.n_gpus_per_node"


def has_own_pool(config: DictConfig) -> bool:
    """Return True if the rollout servers have devices of their own."""
    from omegaconf import OmegaConf

    # absent in a script of verl's own
    return OmegaConf.select(config, MODE) == SEPARATE


def own_devices(config: DictConfig) -> int:
    """Return the devices of the rollout servers' own pool; 0 where they share the trainer's."""
    if not has_own_pool(config):
        return 0
    rollout = config.actor_rollout_ref.rollout
    return int(rollout.nnodes) * int(rollout.n_gpus_per_node)


def engine_devices(config: DictConfig) -> int:
    """Return the devices that the engines have among them."""
    if has_own_pool(config):
        return own_devices(config)
    return int(config.trainer.n_gpus_per_node) * int(config.trainer.nnodes)


def devices_here(config: DictConfig) -> int:
    """Return the devices that a run on this machine alone takes, the servers' own included."""
    return int(config.trainer.n_gpus_per_node) + own_devices(config)
