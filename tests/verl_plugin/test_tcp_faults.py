"""Weights over TCP when an end dies, falls silent, never comes or is a stranger: the other one says so in time."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

pytest.importorskip("verl")

import torch

from tests.verl_plugin.tcp_ends import BASE, VERSION, WEIGHTS, alone, received, transfer
from trm_agent.verl_plugin.transfer.connection import LENGTH, TransferError
from trm_agent.verl_plugin.transfer.tcp_engine import TCPCheckpointEngine

pytestmark = pytest.mark.usefixtures("here")


def test_a_server_that_dies_in_the_middle_is_named_by_the_trainer(ends):
    trainer, servers = ends(receivers=2)

    async def dies() -> None:
        async for name, _ in servers[1].receive_weights(VERSION):
            if name == "half":
                servers[1].finalize()
                return

    async def both() -> list:
        many = ((f"w{number}", WEIGHTS["large"]) for number in range(30))
        weights = iter([("plain", BASE), ("half", WEIGHTS["half"]), *many])
        sending = trainer[0].send_weights(weights, VERSION)
        return await asyncio.gather(sending, dies(), received(servers[0]), return_exceptions=True)

    sender, _, other = asyncio.run(both())
    assert str(sender).startswith("the rollout servers' worker 1 at 127.0.0.1 is gone, while w")
    # which tells the other one
    assert "the trainer at" in str(other)
    assert "is gone" in str(other)


def test_a_trainer_that_dies_in_the_middle_is_told_with_the_weight(ends):
    trainer, servers = ends()

    def weights() -> Iterator[tuple[str, torch.Tensor]]:
        yield "plain", BASE
        raise MemoryError("no more")

    async def both() -> list:
        return await asyncio.gather(
            trainer[0].send_weights(weights(), VERSION), received(servers[0]), return_exceptions=True
        )

    sender, receiver = asyncio.run(both())
    assert isinstance(sender, MemoryError)
    assert "is gone, in the middle of the 4 bytes of a header: it closed the connection" in str(receiver)


def test_a_trainer_that_falls_silent_is_given_up(ends):
    _, servers = ends()
    servers[0]._connections[0].set_silence(0.2)
    _, receiver = asyncio.run(alone(servers[0]))
    assert "was silent for 0.2 s in the middle of the 4 bytes of a header" in str(receiver)


def test_a_server_that_takes_nothing_is_given_up(ends):
    trainer, _ = ends()
    trainer[0]._connections[0].set_silence(0.2)
    # far more than the sockets' buffers hold
    weights = iter([(f"w{number}", WEIGHTS["large"]) for number in range(40)])
    with pytest.raises(TransferError, match=r"worker 0 at 127.0.0.1 was silent for 0.2 s while w\d+ was sent"):
        asyncio.run(trainer[0].send_weights(weights, VERSION))


def test_a_server_that_never_comes_is_named_with_the_setting():
    trainer = TCPCheckpointEngine(1, is_master=True, timeout_s=0.2)
    trainer.prepare()
    words = r"no connection of the rollout servers' worker 0, 1 within 0.2 s \(.*engine_kwargs.tcp.timeout_s\)"
    with pytest.raises(TransferError, match=words):
        trainer.init_process_group(-1, 2, {})
    trainer.finalize()


def test_a_trainer_that_is_not_there_is_named():
    with socket.create_server(("127.0.0.1", 0)) as once:
        port = once.getsockname()[1]
    address = {"host": "127.0.0.1", "port": port, "token": "t"}
    with pytest.raises(TransferError, match=f"the trainer at 127.0.0.1:{port} cannot be reached"):
        TCPCheckpointEngine(1, timeout_s=1.0).init_process_group(0, 1, address)


@pytest.mark.parametrize(
    "greeting",
    [
        {"token": "guessed", "number": 0},
        {"number": 0},
        {"token": "TOKEN", "number": 5},
        {"token": "TOKEN", "number": True},
        [],
        b"GET / HTTP/1.1\r\n\r\n",
        LENGTH.pack(50_000) + b"[" * 50_000,
    ],
)
def test_a_stranger_gets_no_weights_and_holds_up_nobody(greeting):
    trainer, server = TCPCheckpointEngine(1, is_master=True), TCPCheckpointEngine(1)
    address = trainer.prepare()
    told = greeting if isinstance(greeting, bytes) else json.dumps(greeting).replace("TOKEN", address["token"]).encode()
    stranger = socket.create_connection((address["host"], address["port"]), 5.0)
    stranger.sendall(told if isinstance(greeting, bytes) else LENGTH.pack(len(told)) + told)
    accepting = threading.Thread(target=trainer.init_process_group, args=(-1, 1, {}))
    accepting.start()
    server.init_process_group(0, 1, address)
    accepting.join(20.0)
    assert not accepting.is_alive()
    with suppress(ConnectionResetError):
        assert stranger.recv(1) == b""
    stranger.close()
    _, found = transfer([trainer], [server])
    assert list(found) == list(WEIGHTS)
    trainer.finalize()
    server.finalize()


def test_a_server_that_stops_reading_before_the_end_has_not_confirmed(ends):
    trainer, servers = ends()

    async def stops() -> None:
        weights = servers[0].receive_weights(VERSION)
        await anext(weights)
        await weights.aclose()

    async def both() -> list:
        sending = trainer[0].send_weights(iter({"a": BASE, "b": BASE}.items()), VERSION)
        return await asyncio.gather(sending, stops(), return_exceptions=True)

    sender, _ = asyncio.run(both())
    assert isinstance(sender, TransferError)


@pytest.mark.parametrize("value", [0, -1, "soon", None])
def test_a_deadline_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match=r"^actor_rollout_ref.*engine_kwargs.tcp.timeout_s: got "):
        TCPCheckpointEngine(1, timeout_s=value)
