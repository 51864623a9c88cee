"""A process that plays episodes and ends is told, and nothing waits for its episodes."""

import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("verl")

from ray.exceptions import ActorDiedError, RayActorError
from verl.trainer.ppo.v1 import AgentLoopManagerTQ

from trm_agent.verl_plugin.rollout import loss_watch
from trm_agent.verl_plugin.rollout.episodes_worker import WorkersOfEpisodes
from trm_agent.verl_plugin.rollout.loss_watch import LossWatch

# an actor as our worker is one, of which the kernel takes the process away
KILLED = """
import asyncio, os, signal, threading
import ray
from trm_agent.fork_server.ray_processes import without_cluster_services
from trm_agent.verl_plugin.rollout.loss_watch import LossWatch

@ray.remote
class Player:
    async def pid(self):
        return os.getpid()

    async def serve(self):
        await asyncio.Event().wait()

with without_cluster_services():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    players, told, lost = [Player.remote(), Player.remote()], [], threading.Event()
    watch = LossWatch(lambda words: (told.append(words), lost.set()))
    watch.begin({player.serve.remote(): f"agent-loop worker {number}" for number, player in enumerate(players)})
    pids = ray.get([player.pid.remote() for player in players])
    print(watch.thread.is_alive(), told)
    os.kill(pids[1], signal.SIGKILL)
    print(lost.wait(60), *told)
    ray.shutdown()
"""


class Worker:
    """A Ray handle, whose call to `serve` is answered by an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.serve = SimpleNamespace(remote=lambda: self)


def init_failed() -> Exception:
    return RayActorError(error_msg="no tokenizer", actor_init_failed=True)


@pytest.fixture
def rays(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Calls are answered in their order, once a test lets them."""
    ends = threading.Event()

    def wait(calls: list[Worker], num_returns: int) -> tuple[list[Worker], list[Worker]]:
        assert ends.wait(10)
        return calls[:num_returns], calls[num_returns:]

    def get(calls: list[Worker]) -> Any:
        raise calls[0].error

    monkeypatch.setattr(loss_watch, "ray", SimpleNamespace(wait=wait, get=get))
    return SimpleNamespace(ends=ends)


def told_by(watch: LossWatch, rays: SimpleNamespace) -> None:
    rays.ends.set()
    assert watch.thread is not None
    watch.thread.join(10)
    assert not watch.thread.is_alive()


def test_one_that_failed_as_it_was_made_is_no_loss_and_the_others_are_watched_still(rays):
    losses: list[str] = []
    watch = LossWatch(losses.append)
    watch.begin({Worker(init_failed()): "worker 0", Worker(ActorDiedError()): "worker 1"})
    told_by(watch, rays)
    assert losses == [
        "the worker 1 has ended, and its episodes with it: The actor died unexpectedly before finishing this task."
    ]


def test_after_all_failed_as_they_were_made_nothing_is_watched(rays):
    watch = LossWatch(pytest.fail)
    watch.begin({Worker(init_failed()): "worker 0"})
    told_by(watch, rays)


@pytest.mark.parametrize("is_closed", [False, True])
def test_the_manager_of_workers_watches_each_of_them_until_it_is_closed(is_closed, rays, monkeypatch):
    async def start(manager: Any) -> None:
        manager.agent_loop_workers = [Worker(init_failed()), Worker(ActorDiedError())]

    monkeypatch.setattr(AgentLoopManagerTQ, "__init__", lambda *_, **__: None)
    monkeypatch.setattr(AgentLoopManagerTQ, "_init_agent_loop_workers", start)
    losses: list[str] = []
    made = WorkersOfEpisodes.create(config=None, on_loss=losses.append)
    if is_closed:
        made.close()
    told_by(made.watch, rays)
    assert len(losses) == (0 if is_closed else 1)
    assert all(loss.startswith("the agent-loop worker 1 has ended, and its episodes") for loss in losses)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_told_with_its_class_and_process():
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    # between them may stand what Ray prints of the death
    before, after = [line for line in done.stdout.splitlines() if line.startswith(("True", "False"))]
    assert before == "True []"
    assert after.startswith("True the agent-loop worker 1 has ended, and its episodes with it: The actor died unexp")
    # what the end of a run is explained by
    assert "class_name: Player " in after
    assert " pid: " in after
