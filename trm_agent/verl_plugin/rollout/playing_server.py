"""Episodes in the process of the rollout server, where a turn is a call of a coroutine, and no message."""

import asyncio
import copy
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any


class _InThisProcess:
    """A mixin for verl's clients: every request goes to the server of this process."""

    local: tuple[str, Any]

    async def _acquire_server(self, request_id: str, **_: Any) -> tuple[str, Any]:
        return self.local

    def _release_server(self, server_id: str, request_id: str | None = None) -> None:
        """Do nothing: a client with one server balances no load."""


def local_client(
    client: Any,
    address: str,
    generate: Callable[..., Awaitable[Any]],
    opened: Callable[[], Awaitable[None]] | None = None,
) -> Any:
    """Return a client like a given one, with its way to abort and resume, for the server of this process.

    Args:
        client: the trainer's client.
        address: the server's address, for verl's records.
        generate: the server's method.
        opened: the server's method that waits until it takes requests; None for a client that asks no such thing.
    """

    def with_copies(*, prompt_ids: list[int], sampling_params: dict[str, Any], **kwargs: Any) -> Awaitable[Any]:
        # over Ray a server gets copies, and takes fields out of them
        return generate(prompt_ids=list(prompt_ids), sampling_params=dict(sampling_params), **kwargs)

    local = copy.copy(client)
    local.__class__ = type(f"Local{type(client).__name__}", (_InThisProcess, type(client)), {})
    methods = {"generate": with_copies} | ({} if opened is None else {"opened": opened})
    handle = SimpleNamespace(**{name: SimpleNamespace(remote=method) for name, method in methods.items()})
    local.local = (address, handle)
    return local


class PlayingMixin:
    """A mixin for a vLLM server of verl, whose process plays episodes too."""

    generate: Callable[..., Awaitable[Any]]
    opened: Callable[[], Awaitable[None]]
    _agent_loops: Any

    async def start_agent_loops(self, address: str, config: Any, client: Any, teachers: Any, rewards: Any) -> None:
        """Build a worker of agent loops; the arguments after the address are those of its constructor."""
        # the whole trainer, which other servers do not need
        from trm_agent.verl_plugin.rollout.episodes_worker import EpisodesWorker

        local = local_client(client, address, self.generate, self.opened)
        # reads the tokenizer and waits for Ray, which would stop the event loop
        self._agent_loops = await asyncio.to_thread(EpisodesWorker, config, local, teachers, rewards)

    async def generate_sequences(self, batch: Any) -> None:
        """Begin to play a batch, as verl's worker does."""
        await self._agent_loops.generate_sequences(batch)

    async def serve(self) -> None:
        """Wait for ever: the call fails when this process ends."""
        await asyncio.Event().wait()
