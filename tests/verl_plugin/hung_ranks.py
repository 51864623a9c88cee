"""A driver with two ranks of gloo, of which one does not come; a program of its own, which a deadline ends.

    python -m tests.verl_plugin.hung_ranks RUN

First torch gives up on the collective; then the worker of a server is asked beside them; then nobody gives up but the
driver.
"""

import asyncio
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray

from trm_agent.fork_server.ray_processes import in_their_own_session
from trm_agent.runs.endings.closing import CAUSE_FILE
from trm_agent.verl_plugin.driver.hung import STACKS_FILE, deadline
from trm_agent.verl_plugin.driver.phases import FIELD
from trm_agent.verl_plugin.driver.ranks import Ranks

SECONDS, TORCH_S = 2.0, 1.0
SERVERS_FILE = "servers.txt"


@ray.remote(num_cpus=0)
class Rank:
    """A rank as verl has them: with a coroutine among its methods, so that all run on an event loop."""

    def __init__(self, rank: int, folder: str, size: int = 2) -> None:
        import torch.distributed

        self.torch = torch
        store = torch.distributed.FileStore(f"{folder} store", size)
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
        self.groups = [torch.distributed.new_group(timeout=timedelta(seconds=limit)) for limit in (TORCH_S, 1000)]

    def enter_the_collective(self, group: int) -> None:
        self.torch.distributed.all_reduce(self.torch.ones(1), group=self.groups[group])

    def be_elsewhere(self) -> None:
        time.sleep(1000)

    async def wait_for_something(self) -> None:
        await _never()


async def _never() -> None:
    await asyncio.sleep(1000)


def main(run: Path) -> None:
    with in_their_own_session():
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    first, second = handles = [Rank.remote(rank, str(run)) for rank in range(2)]
    ray.get([handle.enter_the_collective.remote(1) for handle in handles])
    ranks = Ranks(handles)
    second.wait_for_something.remote()
    with_torch: Any = None
    try:
        with deadline(None, "saving the checkpoint", run, FIELD, ranks):
            ray.get(first.enter_the_collective.remote(0))
    except Exception as error:
        with_torch = error
    assert with_torch is not None
    for name in (CAUSE_FILE, STACKS_FILE):
        (run / name).rename(run / f"torch {name}")
    server = Rank.remote(0, str(run / "alone"), size=1)
    ends = ranks + Ranks([server], "server {}")
    server.be_elsewhere.remote()
    (run / SERVERS_FILE).write_text(ends.where().stacks)
    with deadline(SECONDS, "the update of the policy", run, FIELD, ranks):
        ray.get([first.enter_the_collective.remote(1), second.be_elsewhere.remote()])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
