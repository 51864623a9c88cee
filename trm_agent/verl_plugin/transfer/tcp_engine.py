"""verl's checkpoint engine over TCP: rank 0 of the trainer sends each weight to each worker of the rollout servers."""

import asyncio
import hmac
import secrets
import socket
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import ray
import torch
from verl.checkpoint_engine.base import CheckpointEngine
from verl.workers.rollout.utils import ensure_async_iterator

from trm_agent.verl_plugin.transfer.connection import NOTHING, Connection, TransferError
from trm_agent.verl_plugin.transfer.tensors import bytes_of, empty_for, header_of
from trm_fields import ABOVE_0

NAME = "tcp"
TIMEOUT = f"actor_rollout_ref.rollout.checkpoint_engine.engine_kwargs.{NAME}.timeout_s"
GREETING_S = 5.0
"""Seconds that a connection has to say who it is; a stranger's must not hold up the others."""
Layout = dict[str, tuple[str, list[int]]]
"""Name of a weight -> its dtype and shape."""


class TCPCheckpointEngine(CheckpointEngine):
    """One end of the transfer, in a process of the trainer or of a rollout server.

    verl calls, for each synchronisation and everywhere: `prepare`, `init_process_group` with what `build_topology`
    made of the answers, `send_weights` or `receive_weights`, and `finalize`. Each has connections of its own, to a port
    that rank 0 opens for it; who connects there proves by a token, which Ray hands over, that it belongs to the run.

    A receiver checks the version, each name once, dtype, shape and bytes of each weight, the numbers of both at the
    end, and that a later synchronisation brings the weights of the first. It answers when all of it is handed on, for
    which the sender waits.

    Args:
        bucket_size: verl's, which nothing here needs: weights go one by one.
        is_master: whether this process sends.
        timeout_s: seconds without a byte, or without a connection, after which the other end counts as dead.
    """

    def __init__(self, bucket_size: int, is_master: bool = False, timeout_s: float = 120.0) -> None:
        ABOVE_0.check(TIMEOUT, timeout_s)
        self.is_master, self._timeout_s = is_master, float(timeout_s)
        self._listener: socket.socket | None = None
        self._token = ""
        self._connections: list[Connection] = []
        self._layout: Layout | None = None

    def prepare(self) -> dict[str, Any]:
        """Open a port for the receivers.

        Returns:
            Its address and the token that it asks for; empty where this process does not send.
        """
        self.finalize()
        if not self.is_master:
            return {}
        host = ray.util.get_node_ip_address().strip("[]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=128)
        self._token = secrets.token_hex(32)
        return {"host": host, "port": self._listener.getsockname()[1], "token": self._token}

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[dict]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """Return the arguments of `init_process_group` for each process of the trainer, and of the servers."""
        ranks, receivers = actor_wg_world_size, rollout_world_size
        (address,) = [each for each in metadata[:ranks] if each]
        return (
            {"number": [-1] * ranks, "peers": [receivers] * ranks, "address": [{}] * ranks},
            {"number": list(range(receivers)), "peers": [1] * receivers, "address": [address] * receivers},
        )

    def init_process_group(  # type: ignore[override]  # with what `build_topology` returns
        self, number: int, peers: int, address: dict[str, Any]
    ) -> None:
        """Connect, or wait for those who do.

        Args:
            number: of a receiver; -1 in the trainer.
            peers: the connections that this process has if it sends or receives.
            address: that of the sender, for a receiver.

        Raises:
            TransferError: nobody is there in time.
        """
        if number >= 0:
            self._connections = [self._connected(number, address)]
        elif self.is_master:
            self._connections = self._accepted(peers)

    def finalize(self) -> None:
        """Close all connections and the port."""
        for connection in self._connections:
            connection.close()
        if self._listener is not None:
            self._listener.close()
        self._connections, self._listener = [], None

    async def send_weights(self, weights: Any, global_steps: int | None = None) -> dict[str, Any]:
        """Send all weights to all receivers; a process that does not send takes its part in gathering them.

        Raises:
            TransferError: a receiver is gone, silent, or has not got what was sent.
        """
        num_weights = num_bytes = 0
        try:
            await self._to_all({"version": global_steps})
            async for name, weight in ensure_async_iterator(weights):
                if self._connections:
                    on_host = weight.detach().to("cpu")
                    await self._to_all(header_of(name, on_host), bytes_of(on_host))
                    num_weights, num_bytes = num_weights + 1, num_bytes + on_host.nbytes
            sent = {"weights": num_weights, "bytes": num_bytes}
            await self._to_all({"end": sent})
            await self._for_all(lambda connection: _confirm(connection, sent))
        except BaseException:
            # the other receivers notice
            self.finalize()
            raise
        return {}

    async def receive_weights(  # type: ignore[override]  # verl's own engines yield, too
        self, global_steps: int | None = None
    ) -> AsyncGenerator[tuple[str, torch.Tensor], None]:
        """Yield name and tensor of each weight.

        Raises:
            TransferError: the sender is gone or silent, or sends something else than was agreed.
        """
        (connection,) = self._connections
        layout: Layout = {}
        num_bytes = 0
        try:
            version = (await asyncio.to_thread(connection.header)).get("version")
            if version != global_steps:
                raise TransferError(f"{connection.peer} sends version {version}, and {global_steps} is due")
            while "end" not in (header := await asyncio.to_thread(connection.header)):
                weight = empty_for(header)
                name = header["name"]
                if name in layout:
                    raise TransferError(f"{connection.peer} sent {name} twice")
                await asyncio.to_thread(connection.fill, bytes_of(weight), name)
                layout[name] = header["dtype"], header["shape"]
                num_bytes += weight.nbytes
                yield name, weight
            self._check(header["end"], layout, num_bytes)
            await asyncio.to_thread(connection.send, {"received": header["end"]})
        except BaseException:
            # the sender notices
            self.finalize()
            raise

    def _check(self, announced: Any, layout: Layout, num_bytes: int) -> None:
        received = {"weights": len(layout), "bytes": num_bytes}
        if announced != received:
            raise TransferError(f"received {received}, and the sender says {announced}")
        if self._layout is not None and layout != self._layout:
            changed = sorted(
                name for name in layout.keys() | self._layout.keys() if layout.get(name) != self._layout.get(name)
            )
            told = ", ".join(f"{name}: {self._layout.get(name)}, now {layout.get(name)}" for name in changed[:3])
            raise TransferError(f"{len(changed)} weights are not as in the first synchronisation: {told}")
        self._layout = layout

    def _connected(self, number: int, address: dict[str, Any]) -> Connection:
        host, port = address["host"], address["port"]
        peer = f"the trainer at {host}:{port}"
        try:
            sock = socket.create_connection((host, port), self._timeout_s)
        except OSError as error:
            raise TransferError(f"{peer} cannot be reached: {error}") from error
        connection = Connection(sock, peer, self._timeout_s)
        connection.send({"token": address["token"], "number": number})
        connection.header()
        return connection

    def _accepted(self, number: int) -> list[Connection]:
        assert self._listener is not None, "prepare comes first"
        found: dict[int, Connection] = {}
        until = time.monotonic() + self._timeout_s
        while len(found) < number:
            self._listener.settimeout(max(0.001, until - time.monotonic()))
            try:
                sock, (host, *_) = self._listener.accept()
            except TimeoutError as error:
                missing = ", ".join(str(each) for each in range(number) if each not in found)
                raise TransferError(
                    f"no connection of the rollout servers' worker {missing} within {self._timeout_s:g} s ({TIMEOUT})"
                ) from error
            connection = Connection(sock, host, min(GREETING_S, self._timeout_s))
            who = self._greeted(connection, range(number))
            if who is None or who in found:
                connection.close()
                continue
            connection.peer = f"the rollout servers' worker {who} at {host}"
            connection.set_silence(self._timeout_s)
            connection.send({"welcome": who})
            found[who] = connection
        return [found[who] for who in range(number)]

    def _greeted(self, connection: Connection, known: range) -> int | None:
        """Return the number of a receiver of this run; None for a stranger."""
        try:
            header = connection.header()
        except TransferError:
            return None
        is_ours = hmac.compare_digest(str(header.get("token")).encode(), self._token.encode())
        number = header.get("number")
        return number if is_ours and type(number) is int and number in known else None

    async def _to_all(self, header: dict[str, Any], payload: memoryview = NOTHING) -> None:
        await self._for_all(lambda connection: connection.send(header, payload))

    async def _for_all(self, do: Callable[[Connection], None]) -> None:
        await asyncio.gather(*(asyncio.to_thread(do, connection) for connection in self._connections))


def _confirm(connection: Connection, sent: dict[str, int]) -> None:
    received = connection.header().get("received")
    if received != sent:
        raise TransferError(f"{connection.peer} has {received} of {sent}")
