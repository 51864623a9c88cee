"""A process that plays episodes and ends is told, and nothing waits for its episodes."""

import subprocess
import sys
import threading
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("verl")

from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError
from verl.trainer.ppo.v1 import AgentLoopManagerTQ

from trm_agent.verl_plugin.rollout import loss_watch
from trm_agent.verl_plugin.rollout.episodes_worker import WorkersOfEpisodes
from trm_agent.verl_plugin.rollout.loss_watch import LossWatch

PATIENCE_S = 4.0
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
    watch = LossWatch(lambda words: (told.append(words), lost.set()), 30.0)
    watch.begin({f"agent-loop worker {number}": player for number, player in enumerate(players)})
    pids = ray.get([player.pid.remote() for player in players])
    # the question to one that was not reached, which a call to serve does not hold up
    assert ray.get(players[0].__ray_ready__.remote(), timeout=60)
    print(watch.thread.is_alive(), told)
    os.kill(pids[1], signal.SIGKILL)
    print(lost.wait(60), *told)
    ray.shutdown()
"""


class Call:
    """A call that is answered: by an error, or by a value."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer


class Worker:
    """A Ray handle, whose calls get these answers, one after another.

    Args:
        answers: to `serve` and to Ray's question, errors or values; None for a call that nothing answers.
    """

    def __init__(self, *answers: Any) -> None:
        self.asked: list[str] = []
        self._answers = list(answers)
        for name in ("serve", "__ray_ready__"):
            setattr(self, name, SimpleNamespace(remote=partial(self._call, name)))

    def _call(self, name: str) -> Call:
        self.asked.append(name)
        return Call(self._answers.pop(0))


def init_failed() -> Exception:
    return RayActorError(error_msg="no tokenizer", actor_init_failed=True)


def unavailable() -> Exception:
    return ActorUnavailableError("RpcError", None)


class Clock:
    """A clock that nobody waits for."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def rays(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Calls are answered in their order, once a test lets them."""
    ends = threading.Event()

    def wait(calls: list[Call], num_returns: int, timeout: float | None) -> tuple[list[Call], list[Call]]:
        assert ends.wait(10)
        answered = [call for call in calls if call.answer is not None]
        if not answered:
            assert timeout is not None, "nothing would ever be told"
            clock.now += timeout
        return answered[:num_returns], [call for call in calls if call not in answered[:num_returns]]

    def get(calls: list[Call]) -> Any:
        if isinstance(calls[0].answer, Exception):
            raise calls[0].answer
        return [calls[0].answer]

    clock = Clock()
    monkeypatch.setattr(loss_watch, "ray", SimpleNamespace(wait=wait, get=get))
    monkeypatch.setattr(loss_watch, "time", clock)
    return SimpleNamespace(ends=ends)


def told_by(watch: LossWatch, rays: SimpleNamespace) -> None:
    rays.ends.set()
    assert watch.thread is not None
    watch.thread.join(10)
    assert not watch.thread.is_alive()


def test_one_that_failed_as_it_was_made_is_no_loss_and_the_others_are_watched_still(rays):
    losses: list[str] = []
    watch = LossWatch(losses.append, PATIENCE_S)
    watch.begin({"worker 0": Worker(init_failed()), "worker 1": Worker(ActorDiedError())})
    told_by(watch, rays)
    assert losses == [
        "the worker 1 has ended, and its episodes with it: The actor died unexpectedly before finishing this task."
    ]


def test_after_all_failed_as_they_were_made_nothing_is_watched(rays):
    watch = LossWatch(pytest.fail, PATIENCE_S)
    watch.begin({"worker 0": Worker(init_failed())})
    told_by(watch, rays)


def test_one_that_is_out_of_reach_for_a_while_is_no_loss_and_is_watched_again(rays):
    losses: list[str] = []
    watch = LossWatch(losses.append, PATIENCE_S)
    # away for two questions, back for longer than the patience in all, away again, and then dead
    away = [unavailable()] * 3
    worker = Worker(*away, True, *away, True, *away, ActorDiedError())
    watch.begin({"worker 0": worker})
    told_by(watch, rays)
    ready = ["__ray_ready__"] * 3
    assert worker.asked == ["serve", *ready, "serve", *ready, "serve", *ready]
    assert losses == [
        "the worker 0 has ended, and its episodes with it: The actor died unexpectedly before finishing this task."
    ]


@pytest.mark.parametrize("answers", [[unavailable()] * 10, [unavailable(), None]], ids=["no", "no answer"])
def test_one_that_stays_out_of_reach_is_told_when_the_deadline_is_over(answers, rays):
    losses: list[str] = []
    watch = LossWatch(losses.append, PATIENCE_S)
    # the other one is there all the time
    watch.begin({"worker 0": Worker(*answers), "worker 1": Worker(None)})
    told_by(watch, rays)
    (loss,) = losses
    assert loss.startswith("the worker 0 and its episodes could not be reached for 4 s (run.weight_sync_timeout_s)")
    assert 4.0 <= loss_watch.time.monotonic() - Clock.now <= 6.0


def test_after_the_end_nobody_is_asked_again(rays):
    watch, worker = LossWatch(pytest.fail, PATIENCE_S), Worker(unavailable())
    watch.begin({"worker 0": worker})
    watch.close()
    told_by(watch, rays)
    assert worker.asked == ["serve"]


def test_who_is_out_of_reach_hides_nobodys_end(rays):
    losses: list[str] = []
    watch = LossWatch(losses.append, PATIENCE_S)
    watch.begin({"worker 0": Worker(unavailable(), None), "worker 1": Worker(ActorDiedError())})
    told_by(watch, rays)
    assert [loss.partition(":")[0] for loss in losses] == ["the worker 1 has ended, and its episodes with it"]


@pytest.mark.parametrize("is_closed", [False, True])
def test_the_manager_of_workers_watches_each_of_them_until_it_is_closed(is_closed, rays, monkeypatch):
    async def start(manager: Any) -> None:
        manager.agent_loop_workers = [Worker(init_failed()), Worker(ActorDiedError())]

    monkeypatch.setattr(AgentLoopManagerTQ, "__init__", lambda *_, **__: None)
    monkeypatch.setattr(AgentLoopManagerTQ, "_init_agent_loop_workers", start)
    losses: list[str] = []
    made = WorkersOfEpisodes.create(config=None, watch=LossWatch(losses.append, PATIENCE_S))
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
