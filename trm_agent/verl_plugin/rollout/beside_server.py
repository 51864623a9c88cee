"""Agent loops in the process of the rollout server, where a turn is a call of a coroutine, and no message."""

import asyncio
import copy
import threading
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any

import ray
from ray.exceptions import RayError
from verl.trainer.ppo.v1 import AgentLoopManagerTQ, AgentLoopWorkerTQ

from trm_agent.runs.groups import BESIDE_SERVER, WORKERS
from trm_fields import refuse


class _InThisProcess:
    """A mixin for verl's clients: every request goes to the server of this process."""

    local: tuple[str, Any]

    async def _acquire_server(self, request_id: str, **_: Any) -> tuple[str, Any]:
        return self.local

    def _release_server(self, server_id: str, request_id: str | None = None) -> None:
        """Do nothing: a client with one server balances no load."""


def local_client(client: Any, address: str, generate: Callable[..., Awaitable[Any]]) -> Any:
    """Return a client like a given one, with its way to abort and resume, for the server of this process.

    Args:
        client: the trainer's client.
        address: the server's address, for verl's records.
        generate: the server's method.
    """

    def with_copies(*, prompt_ids: list[int], sampling_params: dict[str, Any], **kwargs: Any) -> Awaitable[Any]:
        # over Ray a server gets copies, and takes fields out of them
        return generate(prompt_ids=list(prompt_ids), sampling_params=dict(sampling_params), **kwargs)

    local = copy.copy(client)
    local.__class__ = type(f"Local{type(client).__name__}", (_InThisProcess, type(client)), {})
    local.local = (address, SimpleNamespace(generate=SimpleNamespace(remote=with_copies)))
    return local


class PlayingMixin:
    """A mixin for a vLLM server of verl, whose process plays episodes too."""

    generate: Callable[..., Awaitable[Any]]
    _agent_loops: Any

    async def start_agent_loops(self, address: str, config: Any, client: Any, teachers: Any, rewards: Any) -> None:
        """Build verl's worker of agent loops; the arguments after the address are those of its constructor."""
        local = local_client(client, address, self.generate)
        actor_class: Any = AgentLoopWorkerTQ
        # reads the tokenizer and waits for Ray, which would stop the event loop
        self._agent_loops = await asyncio.to_thread(
            actor_class.__ray_metadata__.modified_class, config, local, teachers, rewards
        )

    async def generate_sequences(self, batch: Any) -> None:
        """Begin to play a batch, as verl's worker does."""
        await self._agent_loops.generate_sequences(batch)

    async def serve(self) -> None:
        """Wait for ever: the call fails when this process ends."""
        await asyncio.Event().wait()


class BesideServers(AgentLoopManagerTQ):
    """A manager of verl whose workers are the rollout servers, each with an equal part of a batch.

    It is also a class for verl's `actor_rollout_ref.rollout.agent.agent_loop_manager_class`.

    Args:
        servers: address to handle; taken from the client's load balancer if not given.
        on_loss: called with a sentence when a server ends before `close`.
    """

    def __init__(
        self,
        *args: Any,
        servers: Mapping[str, Any] | None = None,
        on_loss: Callable[[str], None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._servers, self._on_loss, self._is_closed = servers, on_loss, False

    async def _init_agent_loop_workers(self) -> None:
        servers = dict(self._servers or await self.llm_client._load_balancer.__ray_call__.remote(_servers_of))
        for address, handle in servers.items():
            if not hasattr(handle, "start_agent_loops"):
                refuse(
                    "hardware.agent_loops",
                    BESIDE_SERVER,
                    "servers of vLLM with trm_agent.verl_plugin.extension as actor_rollout_ref.model.external_lib",
                    f"set {WORKERS}",
                    because=f"but the server at {address} plays no episodes",
                )
        given = self.config, self.llm_client, self.teacher_client, self.reward_loop_worker_handles
        await asyncio.gather(*(handle.start_agent_loops.remote(at, *given) for at, handle in servers.items()))
        self.agent_loop_workers = list(servers.values())
        if self._on_loss is not None:
            calls = {handle.serve.remote(): address for address, handle in servers.items()}
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
            if not self._is_closed and self._on_loss is not None:
                reason = " ".join(str(error).split())
                self._on_loss(f"the rollout server at {calls[ended[0]]} has ended, and its episodes with it: {reason}")


def _servers_of(balancer: Any) -> dict[str, Any]:
    return dict(balancer._servers)
