"""The manager of agent loops that run in the processes of the rollout servers."""

import asyncio
from collections.abc import Mapping
from typing import Any

from verl.trainer.ppo.v1 import AgentLoopManagerTQ
from verl.workers.rollout.llm_server import LLMServerManager

from trm_agent.runs.groups import BESIDE_SERVER, WORKERS
from trm_agent.verl_plugin.cpu.patches import VERL_VERSION, require_version
from trm_agent.verl_plugin.rollout.in_turn import InTurn
from trm_agent.verl_plugin.rollout.loss_watch import LossWatch
from trm_fields import refuse

_START_BALANCER = "_init_global_load_balancer"


class BesideServers(InTurn, AgentLoopManagerTQ):
    """A manager of verl whose workers are the rollout servers, each with an equal part of a batch.

    Args:
        servers: address to handle.
        watch: told of the servers, and of `close`.
    """

    def __init__(self, *args: Any, servers: Mapping[str, Any], watch: LossWatch, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._servers, self.watch = servers, watch

    async def _init_agent_loop_workers(self) -> None:
        for address, handle in self._servers.items():
            if not hasattr(handle, "start_agent_loops"):
                refuse(
                    "hardware.agent_loops",
                    BESIDE_SERVER,
                    "servers of vLLM with trm_agent.verl_plugin.extension as actor_rollout_ref.model.external_lib",
                    f"set {WORKERS}",
                    because=f"but the server at {address} plays no episodes",
                )
        given = self.config, self.llm_client, self.teacher_client, self.reward_loop_worker_handles
        await asyncio.gather(*(handle.start_agent_loops.remote(at, *given) for at, handle in self._servers.items()))
        self.agent_loop_workers = list(self._servers.values())
        self.watch.begin({f"rollout server at {at}": handle for at, handle in self._servers.items()})

    def close(self) -> None:
        """Expect the servers to end from now on."""
        self.watch.close()


def without_balancer() -> None:
    """Let this process start none of verl's load balancers, an actor that episodes beside their server never ask.

    Raises:
        RuntimeError: verl has a version that this was not written for.
    """

    async def start_none(manager: Any) -> None:
        manager.global_load_balancer = None

    require_version("without_balancer", "verl", VERL_VERSION)
    setattr(LLMServerManager, _START_BALANCER, start_none)
