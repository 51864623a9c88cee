"""Weights over TCP, between real sockets: they come through bit for bit, and whatever goes wrong is told in time."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

pytest.importorskip("verl")

import ray
import torch

from trm_agent.verl_plugin.transfer.connection import LARGEST_HEADER, LENGTH, TransferError
from trm_agent.verl_plugin.transfer.tcp_engine import TCPCheckpointEngine

VERSION = 7
BASE = torch.arange(24, dtype=torch.float32).reshape(4, 6)
WEIGHTS = {
    "plain": BASE,
    "half": BASE.to(torch.bfloat16) / 3,
    "transposed": BASE.t(),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "empty": torch.empty(0, 3),
    "flags": torch.tensor([True, False, True]),
    # more than goes to a socket at once
    "large": torch.arange(700_000, dtype=torch.float32),
}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")


@pytest.fixture
def ends() -> Iterator[Any]:
    """Makes both ends of a transfer, connected, and closes them."""
    made: list[TCPCheckpointEngine] = []

    def connected(receivers: int = 1, ranks: int = 1) -> tuple[list, list]:
        trainer = [TCPCheckpointEngine(1, is_master=rank == 0, timeout_s=20.0) for rank in range(ranks)]
        servers = [TCPCheckpointEngine(1, timeout_s=20.0) for _ in range(receivers)]
        made.extend([*trainer, *servers])
        connect(trainer, servers)
        return trainer, servers

    yield connected
    for engine in made:
        engine.finalize()


def connect(trainer: list, servers: list) -> None:
    """As verl's manager does."""
    metadata = [engine.prepare() for engine in [*trainer, *servers]]
    given = TCPCheckpointEngine.build_topology(len(trainer), len(servers), metadata)
    with ThreadPoolExecutor(len(trainer) + len(servers)) as pool:
        calls = []
        for engines, arguments in zip((trainer, servers), given, strict=True):
            assert {len(values) for values in arguments.values()} == {len(engines)}
            for index, engine in enumerate(engines):
                own = {name: values[index] for name, values in arguments.items()}
                calls.append(pool.submit(engine.init_process_group, **own))
        for call in calls:
            call.result()


async def received(engine: TCPCheckpointEngine, version: int | None = VERSION) -> dict[str, torch.Tensor]:
    return {name: weight.clone() async for name, weight in engine.receive_weights(version)}


def transfer(trainer: list, servers: list, weights: Any = WEIGHTS, version: int = VERSION, due: int = VERSION) -> list:
    """Both sides at once; returns what each server got, or the error of the first that failed is raised."""

    async def both() -> list:
        sending = [engine.send_weights(iter(dict(weights).items()), version) for engine in trainer]
        found = await asyncio.gather(*sending, *(received(engine, due) for engine in servers), return_exceptions=True)
        return found

    return asyncio.run(both())


def test_each_weight_comes_through_bit_for_bit_to_each_server(ends):
    trainer, servers = ends(receivers=2)
    sent, *got = transfer(trainer, servers)
    assert sent == {}
    for found in got:
        assert list(found) == list(WEIGHTS)
        for name, weight in WEIGHTS.items():
            assert (found[name].dtype, found[name].shape) == (weight.dtype, weight.shape)
            assert torch.equal(found[name], weight), name


def test_another_rank_of_the_trainer_takes_its_part_in_gathering_and_sends_nothing(ends):
    trainer, servers = ends(ranks=2)
    gathered: list[str] = []

    def weights() -> Iterator[tuple[str, torch.Tensor]]:
        for name, weight in WEIGHTS.items():
            gathered.append(name)
            yield name, weight

    async def both() -> list:
        first, second = (engine.send_weights(weights(), VERSION) for engine in trainer)
        return await asyncio.gather(first, second, received(servers[0]))

    found = asyncio.run(both())[2]
    assert list(found) == list(WEIGHTS)
    assert sorted(gathered) == sorted([*WEIGHTS, *WEIGHTS])


def test_a_later_synchronisation_has_connections_of_its_own(ends):
    trainer, servers = ends()
    ports = set()
    for version in (1, 2, 3):
        ports.add(trainer[0]._listener.getsockname()[1])
        _, found = transfer(trainer, servers, {"w": BASE * version}, version, version)
        assert torch.equal(found["w"], BASE * version)
        for engine in (*trainer, *servers):
            engine.finalize()
        connect(trainer, servers)
    assert len(ports) == 3


def test_weights_of_another_version_are_not_taken(ends):
    trainer, servers = ends()
    sender, receiver = transfer(trainer, servers, version=8)
    assert isinstance(receiver, TransferError)
    assert "the trainer at 127.0.0.1:" in str(receiver)
    assert str(receiver).endswith("sends version 8, and 7 is due")
    # and the sender does not wait for it
    assert isinstance(sender, TransferError)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"plain": BASE}, "1 weights are not as in the first synchronisation: half: .*, now None"),
        ({"plain": BASE, "half": BASE}, r"half: \('bfloat16', \[4, 6\]\), now \('float32', \[4, 6\]\)"),
        ({"plain": BASE[:2], "half": WEIGHTS["half"]}, r"plain: .*\[4, 6\]\), now .*\[2, 6\]\)"),
    ],
)
def test_a_synchronisation_with_other_weights_than_the_first_is_an_error_that_names_them(ends, second, words):
    trainer, servers = ends()
    transfer(trainer, servers, {"plain": BASE, "half": WEIGHTS["half"]})
    connect(trainer, servers)
    _, receiver = transfer(trainer, servers, second)
    with pytest.raises(TransferError, match=words):
        raise receiver


def test_a_weight_that_comes_twice_is_an_error(ends):
    trainer, servers = ends()

    async def both() -> list:
        twice = iter([("w", BASE), ("w", BASE)])
        return await asyncio.gather(
            trainer[0].send_weights(twice, VERSION), received(servers[0]), return_exceptions=True
        )

    _, receiver = asyncio.run(both())
    assert "sent w twice" in str(receiver)


def test_a_weight_of_a_dtype_that_no_engine_has_is_named(ends):
    trainer, servers = ends()
    sender, receiver = transfer(trainer, servers, {"odd": torch.zeros(2, dtype=torch.complex64)})
    assert str(sender).startswith("odd is of complex64, and not of float64, float32")
    assert "is gone" in str(receiver)


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
    _, receiver = asyncio.run(_alone(servers[0]))
    assert "was silent for 0.2 s in the middle of the 4 bytes of a header" in str(receiver)


async def _alone(engine: TCPCheckpointEngine) -> tuple[None, BaseException]:
    (found,) = await asyncio.gather(received(engine), return_exceptions=True)
    return None, found


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


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (LENGTH.pack(LARGEST_HEADER + 1), f"announced a header of {LARGEST_HEADER + 1} bytes, more than"),
        (LENGTH.pack(3) + b"abc", "sent a header that is no JSON: "),
        (LENGTH.pack(2) + b"[]", "no JSON object"),
    ],
)
def test_what_is_no_header_is_an_error(ends, sent, words):
    trainer, servers = ends()
    trainer[0]._connections[0]._socket.sendall(sent)
    _, receiver = asyncio.run(_alone(servers[0]))
    assert words in str(receiver)


@pytest.mark.parametrize(
    "header",
    [
        {"name": "w", "dtype": "float31", "shape": [2]},
        {"name": "w", "dtype": "float32", "shape": [-2]},
        {"name": "w", "dtype": "float32", "shape": [True]},
        {"name": "w", "dtype": "float32", "shape": 2},
        {"name": "", "dtype": "float32", "shape": [2]},
        {"dtype": "float32", "shape": [2]},
    ],
)
def test_a_header_of_no_weight_is_an_error(ends, header):
    trainer, servers = ends()
    connection = trainer[0]._connections[0]
    connection.send({"version": VERSION})
    connection.send(header)
    _, receiver = asyncio.run(_alone(servers[0]))
    assert "a header that announces no weight: " in str(receiver)


@pytest.mark.parametrize("end", [{"weights": 2, "bytes": 96}, {"weights": 1, "bytes": 95}, None])
def test_an_end_that_does_not_agree_with_what_came_is_an_error(ends, end):
    trainer, servers = ends()
    connection = trainer[0]._connections[0]
    connection.send({"version": VERSION})
    connection.send({"name": "w", "dtype": "float32", "shape": [24]}, memoryview(bytes(96)))
    connection.send({"end": end})
    _, receiver = asyncio.run(_alone(servers[0]))
    assert "received {'weights': 1, 'bytes': 96}, and the sender says " in str(receiver)


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


def test_verl_knows_the_engine_and_the_socket_of_the_last_metres_by_our_module():
    from verl.checkpoint_engine.base import CheckpointEngineRegistry
    from verl.workers.rollout import base

    import trm_agent.verl_plugin.transfer.registration  # noqa: F401

    assert CheckpointEngineRegistry.get("tcp") is TCPCheckpointEngine
    assert base._ROLLOUT_REGISTRY["vllm", "async"].endswith("weight_sender.WeightSender")
