"""Both ends of a transfer of weights over TCP, on real sockets of this machine."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

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


class Ends:
    """Makes both ends of a transfer, connected, and closes them."""

    def __init__(self) -> None:
        self._made: list[TCPCheckpointEngine] = []

    def __call__(self, receivers: int = 1, ranks: int = 1) -> tuple[list, list]:
        trainer = [TCPCheckpointEngine(1, is_master=rank == 0, timeout_s=20.0) for rank in range(ranks)]
        servers = [TCPCheckpointEngine(1, timeout_s=20.0) for _ in range(receivers)]
        self._made += [*trainer, *servers]
        connect(trainer, servers)
        return trainer, servers

    def close(self) -> None:
        for engine in self._made:
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


async def alone(engine: TCPCheckpointEngine) -> tuple[None, BaseException]:
    (found,) = await asyncio.gather(received(engine), return_exceptions=True)
    return None, found
