"""Places for episodes, which limit those in play to the capacity of the rollout engine."""

import functools
from contextlib import AbstractAsyncContextManager

from omegaconf import DictConfig, OmegaConf

from trm_agent.episode.slots import Places
from trm_agent.runs.groups import BESIDE_SERVER


def places_per_worker(config: DictConfig) -> int:
    """Return the number of episodes that one agent-loop worker, or server, plays at a time.

    verl starts all episodes of a batch at once. Those beyond the engine's sequences would wait inside it, with their
    clocks running.
    """
    rollout, trainer = config.actor_rollout_ref.rollout, config.trainer
    size = (
        int(rollout.get("tensor_model_parallel_size", 1))
        * int(rollout.get("data_parallel_size", 1))
        * int(rollout.get("pipeline_model_parallel_size", 1))
    )
    # an engine beside the trainer has devices of its own
    nodes, devices = int(rollout.get("nnodes", 0)), int(rollout.get("n_gpus_per_node", trainer.n_gpus_per_node))
    devices = nodes * devices if nodes else int(trainer.nnodes) * int(trainer.n_gpus_per_node)
    num_replicas = max(1, devices // size)
    per_replica = int(rollout.max_num_seqs) * int(rollout.get("data_parallel_size", 1))
    # without a section of ours, in a script of verl's own, there are workers
    beside = OmegaConf.select(config, "hardware.agent_loops") == BESIDE_SERVER
    return max(1, per_replica * num_replicas // (num_replicas if beside else int(rollout.agent.num_workers)))


def engine_place(number: int) -> AbstractAsyncContextManager[None]:
    """Wait for one of a number of places for an episode; none of the episode's clocks runs before."""
    return _places(number).place()


@functools.cache
def _places(number: int) -> Places:
    return Places(number)
