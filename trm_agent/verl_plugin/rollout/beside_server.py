"""The manager of agent loops that run in the processes of the rollout servers."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import RayError
from verl.trainer.ppo.v1 import AgentLoopManagerTQ
from verl.workers.rollout.llm_server import LLMServerManager

from trm_agent.runs.groups import BESIDE_SERVER, WORKERS
from trm_agent.verl_plugin.cpu.patches import VERL_VERSION, require_version
from trm_agent.verl_plugin.rollout.in_turn import InTurn
from trm_fields import refuse

_START_BALANCER = "_init_global_load_balancer"


class BesideServers(InTurn, AgentLoopManagerTQ):
    """A manager of verl whose workers are the rollout servers, each with an equal part of a batch.

    Args:
        servers: address to handle.
        on_loss: called with a sentence when a server ends before `close`.
    """

    def __init__(self, *args: Any, servers: Mapping[str, Any], on_loss: Callable[[str], None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._servers, self._on_loss, self._is_closed = servers, on_loss, False

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
        calls = {handle.serve.remote(): address for address, handle in self._servers.items()}
        self.watch = threading.Thread(target=self._watch, args=(calls,), daemon=True)
        self.watch.start()

    def close(self) -> None:
        """Expect the servers to end from now on."""
        self._is_closed = True

    def _watch(self, calls: dict[Any, str]) -> None:
        """Tell of the first server that ends; its episodes end without a word, and the trainer would wait for ever."""
        ended, _ = ray.wait(list(calls), num_returns=1)
        try:
            ray.get(ended)
        except RayError as error:
            if not self._is_closed:
                reason = " ".join(str(error).split())
                self._on_loss(f"the rollout server at {calls[ended[0]]} has ended, and its episodes with it: {reason}")


def without_balancer() -> None:
    """Let this process start none of verl's load balancers, an actor that episodes beside their server never ask.

    Raises:
        RuntimeError: verl has a version that this was not written for.
    """

    async def start_none(manager: Any) -> None:
        manager.global_load_balancer = None

    require_version("without_balancer", "verl", VERL_VERSION)
    setattr(LLMServerManager, _START_BALANCER, start_none)
