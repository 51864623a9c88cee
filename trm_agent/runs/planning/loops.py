"""Workers of agent loops on GPUs: as many as the episodes of a step need, since each is a process to start."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

WORKERS = "actor_rollout_ref.rollout.agent.num_workers"
# episodes whose turns one worker serves: half a millisecond of its event loop each (docs/decisions/agent_loops.md), and
# the rest of a core for environments in Python (assumed)
EPISODES = 256
# of a node; more wait for the same engines
MOST = 8


def workers_needed(config: DictConfig) -> int:
    """Return the workers for a step's episodes, one on each node at the least: sandboxes run beside them."""
    episodes = int(config.data.train_batch_size) * int(config.actor_rollout_ref.rollout.n)
    nodes = int(config.trainer.nnodes)
    return max(nodes, min(MOST * nodes, -(-episodes // EPISODES)))
