"""Our worker of agent loops: which way an episode goes, ours or verl's."""

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

import yaml
from verl.trainer.ppo.v1 import AgentLoopManagerTQ

from tests.verl_plugin.test_outbox import GIVEN, Queue, output
from trm_agent.verl_plugin.rollout import episodes_worker
from trm_agent.verl_plugin.rollout.agent_loop import EnvAgentLoop
from trm_agent.verl_plugin.rollout.episodes_worker import _VERLS, NAME, EpisodesWorker, WorkersOfEpisodes
from trm_agent.verl_plugin.rollout.outbox import Outbox

AT = {"step": 7, "sample_index": 0, "rollout_n": 0, "validate": False}


@pytest.fixture
def ways(monkeypatch) -> list[tuple[str, dict]]:
    """What verl's own methods were asked, in order."""
    noted: list[tuple[str, dict]] = []

    def note(name):
        async def call(*_, **given):
            noted.append((name, given))

        return call

    for name in ("_run_agent_loop", "_agent_loop_postprocess"):
        monkeypatch.setattr(_VERLS, name, note(name))
    return noted


def worker(queue: Queue, **changes) -> EpisodesWorker:
    made = object.__new__(EpisodesWorker)
    made._outbox = Outbox(queue.put)
    made.llm_client, made.tokenizer = "client", "tokenizer"
    made.processor, made.distillation_enabled = None, False
    vars(made).update(changes)
    return made


@pytest.fixture
def played(monkeypatch) -> list:
    """What our agent loop was built with and asked; it plays an episode at once."""
    noted: list = []

    class Loop:
        def __init__(self, *given):
            noted.append(given)

        async def run(self, sampling_params, **fields):
            noted.append((sampling_params, fields))
            return [] if fields.get("fails") else output()

    monkeypatch.setattr(episodes_worker, "EnvAgentLoop", Loop)
    return noted


@pytest.mark.parametrize(("validate", "partition"), [(False, "train"), (True, "val")])
async def test_an_episode_of_ours_is_played_without_verls_way_and_its_row_is_put(ways, played, validate, partition):
    partitions = []

    async def put(keys, partition_id, **_):
        partitions.append((keys, partition_id))

    made = worker(SimpleNamespace(put=put))
    await made._run_agent_loop({"top_p": 1}, AT | {"validate": validate}, agent_name=NAME, trace=False, **GIVEN)
    assert played == [(made, "client", "tokenizer"), ({"top_p": 1}, GIVEN)]
    assert (partitions, ways) == ([(["u_3_0"], partition)], [])


async def test_another_agent_loop_goes_verls_way_whole(ways, played):
    given = {"agent_name": "tool_agent", "trace": False, **GIVEN}
    await worker(Queue())._run_agent_loop({"top_p": 1}, AT, **given)
    assert (ways, played) == ([("_run_agent_loop", given)], [])


@pytest.mark.parametrize("changes", [{"processor": "images"}, {"distillation_enabled": True}, {"fails": True}])
async def test_what_our_rows_do_not_hold_is_stored_by_verl(ways, played, changes):
    queue, fails = Queue(), changes.pop("fails", False)
    await worker(queue, **changes)._run_agent_loop({}, AT, agent_name=NAME, trace=False, **GIVEN, fails=fails)
    assert [name for name, _ in ways] == ["_agent_loop_postprocess"]
    assert queue.messages == []


def test_our_agent_loop_has_the_name_that_verl_reads():
    (entry,) = yaml.safe_load(Path(episodes_worker.__file__).with_name("agent_loop.yaml").read_text())
    assert entry == {"name": NAME, "_target_": f"{EnvAgentLoop.__module__}.{EnvAgentLoop.__qualname__}"}


def test_the_manager_has_our_workers(monkeypatch):
    monkeypatch.setattr(AgentLoopManagerTQ, "__init__", lambda *_: None)
    actor = WorkersOfEpisodes(on_loss=print).agent_loop_workers_class.__ray_metadata__.modified_class
    assert issubclass(actor, EpisodesWorker)
