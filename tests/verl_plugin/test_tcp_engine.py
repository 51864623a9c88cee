"""Weights over TCP, between real sockets: they come through bit for bit, and nothing else does."""

import asyncio
from collections.abc import Iterator

import pytest

pytest.importorskip("verl")

import torch

from tests.verl_plugin.tcp_ends import BASE, VERSION, WEIGHTS, alone, connect, received, transfer
from trm_agent.verl_plugin.transfer.connection import LARGEST_HEADER, LENGTH, TransferError
from trm_agent.verl_plugin.transfer.tcp_engine import TCPCheckpointEngine


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
    _, receiver = asyncio.run(alone(servers[0]))
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
    _, receiver = asyncio.run(alone(servers[0]))
    assert "a header that announces no weight: " in str(receiver)


@pytest.mark.parametrize("end", [{"weights": 2, "bytes": 96}, {"weights": 1, "bytes": 95}, None])
def test_an_end_that_does_not_agree_with_what_came_is_an_error(ends, end):
    trainer, servers = ends()
    connection = trainer[0]._connections[0]
    connection.send({"version": VERSION})
    connection.send({"name": "w", "dtype": "float32", "shape": [24]}, memoryview(bytes(96)))
    connection.send({"end": end})
    _, receiver = asyncio.run(alone(servers[0]))
    assert "received {'weights': 1, 'bytes': 96}, and the sender says " in str(receiver)


def test_verl_knows_the_engine_and_the_socket_of_the_last_metres_by_our_module():
    from verl.checkpoint_engine.base import CheckpointEngineRegistry
    from verl.workers.rollout import base

    import trm_agent.verl_plugin.transfer.registration  # noqa: F401

    assert CheckpointEngineRegistry.get("tcp") is TCPCheckpointEngine
    assert base._ROLLOUT_REGISTRY["vllm", "async"].endswith("weight_sender.WeightSender")
